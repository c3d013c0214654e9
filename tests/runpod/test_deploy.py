"""What `up` and `down` make and delete, drill by drill, against a server that fails as documented."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runpod_deployer.api import ApiRefused, Unclear
from runpod_deployer.catalogue import NoCapacity
from runpod_deployer.deploy import Deployer
from runpod_deployer.deployment import Deployment
from runpod_deployer.journal import Journal
from shared.errors import InvalidRequest, Overloaded, Unavailable

Make = Callable[..., Deployer]
Wanted = Callable[..., Deployment]


def pods(fake: Any) -> dict[str, Any]:
    """The pods by role."""
    return {pod["name"].split("-")[2]: pod for pod in fake.all()["pods"].values()}


def test_up_makes_each_role_once_and_wires_them(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted())
    found = fake.all()
    assert {kind: len(each) for kind, each in found.items()} == {"pods": 2, "endpoints": 1, "volumes": 1}
    made = pods(fake)
    endpoint, volume = next(iter(found["endpoints"].values())), next(iter(found["volumes"].values()))
    assert made["trainer"]["env"]["PSUEDOPTIMAL_DECODER_URL"] == (
        f"http://{made['decoder']['id']}.runpod.internal:8001"
    )
    assert made["trainer"]["env"]["PSUEDOPTIMAL_SANDBOX_URL"] == f"https://{endpoint['id']}.api.runpod.ai"
    model = "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert (
        made["trainer"]["env"]["PSUEDOPTIMAL_GENERATOR_MODEL"]
        == made["decoder"]["env"]["DECODER_MODEL"]
        == model
    )
    assert made["trainer"]["env"]["DECODER_TOKEN"] == made["decoder"]["env"]["DECODER_TOKEN"]
    assert made["trainer"]["mounts"]["network"] == [{"volumeId": volume["id"], "path": "/workspace"}]
    assert made["trainer"]["dataCenterId"] == volume["dataCenter"]
    assert made["trainer"]["globalNetworking"]["enabled"] and made["decoder"]["globalNetworking"]["enabled"]
    # One string, which RunPod splits as a shell does.
    assert made["trainer"]["args"] == "trainer train text --name 'it'\"'\"'s one'"
    assert not made["trainer"]["ports"] and not made["decoder"]["ports"]
    assert endpoint["type"] == "LOAD_BALANCER" and endpoint["workers"] == {
        "min": 1,
        "max": 3,
        "idleTimeout": 10,
    }
    assert endpoint["env"]["SANDBOX_TOKEN"] == "{{ RUNPOD_SECRET_sandbox_key }}"
    assert endpoint["cpu"][0]["id"] == "cpu5c"  # the cheapest with enough memory


def test_up_again_makes_nothing(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted())
    before = fake.ids()
    deployer().up(wanted())
    assert fake.ids() == before
    assert len(fake.log("POST")) == 4


def test_up_with_other_settings_is_refused_while_something_runs(
    fake: Any, deployer: Make, wanted: Wanted
) -> None:
    deployer().up(wanted())
    with pytest.raises(InvalidRequest, match=r"other settings \(max_hours\)"):
        deployer().up(wanted(max_hours=1))
    deployer().down(volumes=False, orphans=False)
    deployer().up(wanted(max_hours=1))
    assert len(fake.all()["volumes"]) == 1


def test_one_pod_is_enough(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted(decoder="colocated", sandbox="colocated", sandbox_secret=None, volume_gb=0))
    assert list(pods(fake)) == ["trainer"] and len(fake.ids()) == 1
    trainer = pods(fake)["trainer"]
    assert not trainer["globalNetworking"]["enabled"] and "PSUEDOPTIMAL_DECODER_URL" not in trainer["env"]
    assert trainer["env"]["DECODER_MODEL"].startswith("Qwen/")


def test_the_next_candidate_is_taken_where_there_is_no_capacity(
    fake: Any, deployer: Make, wanted: Wanted
) -> None:
    one = wanted(decoder="colocated", sandbox="colocated", volume_gb=0)
    fake.rule("POST", "/pods", "refuse", status=400, gpu="NVIDIA RTX A5000", times=2)
    deployer().up(one)
    # The two places of the cheapest GPU refused; the next by price, where it has the most stock.
    assert pods(fake)["trainer"]["gpu"]["id"] == "NVIDIA GeForce RTX 4090"
    assert pods(fake)["trainer"]["dataCenterId"] == "EU-RO-1"
    tried = [(row["body"]["gpu"]["id"], row["body"]["dataCenterIds"]) for row in fake.log("POST")]
    assert tried == [("NVIDIA GeForce RTX 4090", ["EU-RO-1"])]


def test_the_users_order_of_gpus_is_kept(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted(gpus=["A100 PCIe", "RTX 4090"], decoder="colocated", sandbox="colocated"))
    assert pods(fake)["trainer"]["gpu"]["id"] == "NVIDIA A100 80GB PCIe"
    assert next(iter(fake.all()["volumes"].values()))["dataCenter"] == "US-TX-3"


def test_the_volume_moves_on_with_the_pod(fake: Any, deployer: Make, wanted: Wanted) -> None:
    """Where no GPU of a data center can be had, the volume that was made there goes again."""
    fake.rule("POST", "/pods", "refuse", status=400, gpu="NVIDIA GeForce RTX 4090", times=1)
    fake.rule("POST", "/pods", "refuse", status=400, gpu="NVIDIA RTX A5000", times=9)
    deployer().up(wanted(decoder="colocated", sandbox="colocated"))
    assert pods(fake)["trainer"]["dataCenterId"] == "US-TX-3"
    volumes = [row for row in fake.log() if row["path"].startswith("/v2/network-volumes") and row["body"]]
    assert [row["body"]["dataCenter"] for row in volumes] == ["EU-RO-1", "US-TX-3"]
    assert [volume["dataCenter"] for volume in fake.all()["volumes"].values()] == ["US-TX-3"]


def test_a_volume_with_runs_holds_the_trainer_where_it_is(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted(decoder="colocated", sandbox="colocated"))
    deployer().down(volumes=False, orphans=False)
    volume = next(iter(fake.all()["volumes"]))
    for gpu in ("NVIDIA RTX A5000", "NVIDIA GeForce RTX 4090"):
        fake.rule("POST", "/pods", "refuse", status=400, gpu=gpu)
    with pytest.raises(NoCapacity):
        deployer().up(wanted(decoder="colocated", sandbox="colocated"))
    assert list(fake.all()["volumes"]) == [volume] and not fake.all()["pods"]
    deployer().up(wanted(decoder="colocated", sandbox="colocated"))
    assert pods(fake)["trainer"]["mounts"]["network"][0]["volumeId"] == volume


@pytest.mark.parametrize(("status", "kind"), [(402, ApiRefused), (422, ApiRefused), (400, NoCapacity)])
def test_a_refusal_leaves_nothing_behind(
    fake: Any, deployer: Make, wanted: Wanted, status: int, kind: type[Exception]
) -> None:
    """The trainer is refused when endpoint, decoder and volume are there: they would cost for nothing."""
    fake.rule("POST", "/pods", "refuse", status=status, skip=0, gpu="NVIDIA A100 80GB PCIe", times=99)
    with pytest.raises(kind, match=str(status)):
        deployer().up(wanted(gpus=["A100 PCIe"]))
    assert fake.ids() == set()
    assert not deployer().status()


def test_no_credit_ends_the_search_at_once(fake: Any, deployer: Make, wanted: Wanted) -> None:
    fake.rule("POST", "/pods", "refuse", status=402, gpu="NVIDIA RTX A5000", detail="insufficient balance")
    with pytest.raises(ApiRefused, match=r"insufficient balance.*add credit"):
        deployer().up(wanted(decoder="colocated", sandbox="colocated", volume_gb=0))
    assert fake.ids() == set()


def test_a_pool_the_account_may_not_use_is_skipped(fake: Any, deployer: Make, wanted: Wanted) -> None:
    fake.rule("POST", "/pods", "refuse", status=403, gpu="NVIDIA RTX A5000", times=9)
    deployer().up(wanted(decoder="colocated", sandbox="colocated", volume_gb=0))
    assert pods(fake)["trainer"]["gpu"]["id"] == "NVIDIA GeForce RTX 4090"


def test_the_wait_that_a_429_asks_for_is_kept(fake: Any, deployer: Make, wanted: Wanted) -> None:
    waits: list[float] = []
    at_work = deployer()
    at_work.api._pause = waits.append
    fake.rule("POST", "/serverless", "refuse", status=429, retry_after=7, times=2)
    at_work.up(wanted())
    assert sum(wait >= 7 for wait in waits) == 2 and len(fake.all()["endpoints"]) == 1


def test_a_429_without_end_makes_nothing(fake: Any, deployer: Make, wanted: Wanted) -> None:
    at_work = deployer()
    at_work.api._deadline_s = 1.0
    fake.rule("POST", "/serverless", "refuse", status=429, retry_after=60, times=9)
    with pytest.raises(Overloaded):
        at_work.up(wanted())
    assert not fake.ids() and not deployer().status()


def test_a_create_whose_answer_is_a_500_is_found_and_not_repeated(
    fake: Any, deployer: Make, wanted: Wanted
) -> None:
    said: list[str] = []
    fake.rule("POST", "/serverless", "after", status=500)
    fake.rule("POST", "/network-volumes", "after", status=502)
    deployer(said=said).up(wanted())
    assert {kind: len(each) for kind, each in fake.all().items()} == {"pods": 2, "endpoints": 1, "volumes": 1}
    assert any("found endpoint" in line for line in said)


def test_a_500_that_made_nothing_is_repeated_under_a_new_name(
    fake: Any, deployer: Make, wanted: Wanted
) -> None:
    fake.rule("POST", "/serverless", "refuse", status=503)
    deployer().up(wanted())
    assert len(fake.all()["endpoints"]) == 1
    # The first request may still be carried out: `status` says so until it is too old for that.
    unclear = [row for row in deployer().status() if row.state == "unclear"]
    assert [row.role for row in unclear] == ["sandbox"]


def test_an_api_that_fails_for_long_loses_nothing(fake: Any, deployer: Make, wanted: Wanted) -> None:
    fake.rule("POST", "/pods", "refuse", status=500, times=3, gpu="NVIDIA RTX A5000")
    with pytest.raises(Unclear):
        deployer().up(wanted())
    assert len(fake.all()["endpoints"]) == 1  # kept: the next `up` goes on from here
    deployer().up(wanted())
    assert {kind: len(each) for kind, each in fake.all().items()} == {"pods": 2, "endpoints": 1, "volumes": 1}


def test_what_appears_late_is_deleted_by_the_next_up(
    fake: Any, deployer: Make, wanted: Wanted, tmp_path: Path
) -> None:
    """A create that RunPod carries out after `up` has given it up for lost and made another one."""
    fake.rule("POST", "/serverless", "refuse", status=503)
    deployer().up(wanted())
    journal = Journal(tmp_path / "lab.jsonl", "lab")
    late = next(entry.name for entry in journal.of("sandbox") if entry.id is None)
    body = next(row["body"] for row in fake.log("POST") if row["path"] == "/v2/serverless")
    fake.http.post(
        "/v2/serverless", json={**body, "name": late}, headers={"Authorization": "Bearer rpa_test"}
    )
    assert len(fake.all()["endpoints"]) == 2
    deployer().up(wanted())
    assert len(fake.all()["endpoints"]) == 1
    assert [row.state for row in deployer().status()] == ["tracked"] * 4


def test_down_deletes_all_but_the_volume_and_then_that_too(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted())
    left = deployer().down(volumes=False, orphans=False)
    assert [row.kind for row in left] == ["volume"] and len(fake.ids()) == 1
    assert deployer().down(volumes=True, orphans=False) == [] and not fake.ids()
    assert deployer().down(volumes=True, orphans=False) == []


def test_down_touches_nothing_that_is_not_in_the_record(fake: Any, deployer: Make, wanted: Wanted) -> None:
    theirs = {fake.create_pod("psd-lab2-trainer-00000000"), fake.create_pod("my pod")}
    orphan = fake.create_pod("psd-lab-trainer-00000000")
    deployer().up(wanted())
    rows = {row.id: row.state for row in deployer().status()}
    assert rows.pop(orphan) == "orphan" and set(rows.values()) == {"tracked"} and not theirs & set(rows)
    left = deployer().down(volumes=True, orphans=False)
    assert [(row.id, row.state) for row in left] == [(orphan, "orphan")]
    assert fake.ids() == theirs | {orphan}
    deployer().down(volumes=True, orphans=True)
    assert fake.ids() == theirs


def test_a_volume_that_is_still_held_is_waited_for(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted())
    volume = next(iter(fake.all()["volumes"]))
    fake.rule("DELETE", f"/network-volumes/{volume}", "refuse", status=400, times=3)
    deployer().down(volumes=True, orphans=False)
    assert not fake.ids()


def test_a_pod_deleted_in_the_console_is_made_again(fake: Any, deployer: Make, wanted: Wanted) -> None:
    deployer().up(wanted())
    gone = pods(fake)["decoder"]["id"]
    fake.http.delete(f"/v2/pods/{gone}", headers={"Authorization": "Bearer rpa_test"})
    deployer().up(wanted())
    assert pods(fake)["decoder"]["id"] != gone and len(fake.all()["pods"]) == 2


def test_two_at_once_are_not_let_in(deployer: Make, wanted: Wanted, tmp_path: Path) -> None:
    with deployer().journal.held(), pytest.raises(InvalidRequest, match="another process"):
        deployer().up(wanted())


def test_an_unreachable_api_is_no_refusal(deployer: Make, wanted: Wanted) -> None:
    at_work = deployer()
    at_work.api._http.base_url = "http://127.0.0.1:9/v2"
    at_work.api._deadline_s = 1.0
    with pytest.raises(Unavailable, match="not reachable"):
        at_work.up(wanted())


def environment(fake: Any, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ, "RUNPOD_API_KEY": "rpa_test", "RUNPOD_API_BASE_URL": fake.api_url,
        "XDG_STATE_HOME": str(tmp_path),
    }  # fmt: skip


def test_a_process_killed_while_runpod_makes_a_pod_loses_nothing(fake: Any, tmp_path: Path) -> None:
    """SIGKILL between two creates: the request is on its way, its answer reaches nobody."""
    command = [sys.executable, "-m", "trainer.cli", "runpod", "up", "--image", "docker.io/me/pod:1", "--json"]
    fake.rule("POST", "/pods", "slow", seconds=1.5, gpu="NVIDIA RTX A5000")
    first = subprocess.Popen(command, env=environment(fake, tmp_path), stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "psuedoptimal" / "runpod" / "lab.jsonl"
    end = time.monotonic() + 20
    while not (journal.is_file() and '"role": "trainer"' in journal.read_text(encoding="utf-8")):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # the request has left
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=10)
    assert not fake.all()["pods"]
    second = subprocess.run(
        command, env=environment(fake, tmp_path), capture_output=True, text=True, check=True
    )
    assert "found pod" in second.stderr
    rows = json.loads(second.stdout)
    assert {row["state"] for row in rows} == {"tracked"}
    assert {row["id"] for row in rows} == fake.ids() and len(fake.all()["pods"]) == 1
