"""`psuedoptimal runpod`: what it prints, what it asks for, and what it says of bad input."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runpod_deployer import schemas
from trainer.cli import main

IMAGE = ["--image", "docker.io/me/pod:1"]


@pytest.fixture
def account(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The environment a user has."""
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_test")
    monkeypatch.setenv("RUNPOD_API_BASE_URL", fake.api_url)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return fake


def test_a_plan_prints_bodies_and_prices_and_makes_nothing(account: Any, capsys: Any) -> None:
    code = main([
        "runpod", "plan", *IMAGE, "--decoder", "pod", "--sandbox", "endpoint", "--sandbox-secret", "key",
        "--secret", "HF_TOKEN=hf", "--env", "WANDB_API_KEY=plain", "--max-hours", "10", "--json",
        "--", "train", "text", "--name", "one",
    ])  # fmt: skip
    printed = capsys.readouterr().out
    plan = json.loads(printed)
    assert code == 0 and not account.ids() and not account.log("POST")
    assert [step["role"] for step in plan["steps"]] == ["volume", "sandbox", "decoder", "trainer"]
    volume, sandbox, decoder, trainer = plan["steps"]
    # By hand: A5000 0.27 $/h a pod at best, an A100 for 1.64 at worst; 4 vCPUs of cpu5c, 3 workers of cpu3c.
    assert sandbox["hourly"] == pytest.approx(4 * 0.030) and sandbox["most"] == pytest.approx(3 * 4 * 0.036)
    assert decoder["hourly"] == trainer["hourly"] == 0.27 and trainer["most"] == 1.64
    assert plan["hourly"] == pytest.approx(0.12 + 0.27 + 0.27)
    assert plan["total_most"] == pytest.approx(10 * (0.432 + 1.64 + 1.64))
    assert volume["hourly"] is None and volume["body"]["dataCenter"] == "EU-RO-1"
    order = [(at["name"], at["data_center"]) for at in trainer["candidates"]]
    assert order == [
        ("RTX A5000", "EU-RO-1"), ("RTX 4090", "EU-RO-1"), ("RTX 4090", "US-TX-3"), ("A100 PCIe", "US-TX-3")
    ]  # fmt: skip
    assert trainer["body"]["args"] == "trainer train text --name one"
    assert trainer["body"]["env"]["HF_TOKEN"] == "{{ RUNPOD_SECRET_hf }}"
    assert trainer["body"]["env"]["WANDB_API_KEY"] == "(hidden)" and "plain" not in printed
    assert decoder["body"]["env"]["DECODER_TOKEN"] == "(hidden)"


def test_the_plan_for_a_person_ends_with_the_sum(account: Any, capsys: Any) -> None:
    assert main(["runpod", "plan", *IMAGE, "--max-hours", "2"]) == 0
    out = capsys.readouterr().out
    assert '"args": "trainer train text --config psuedoptimal.yaml --name lab"' in out
    assert "0.27 $/h with the first candidates, at most 1.64 $/h" in out and "at most 3.28 $" in out


def test_up_status_and_down_by_hand(account: Any, capsys: Any) -> None:
    assert main(["runpod", "up", *IMAGE]) == 0
    assert "PROVISIONING" in capsys.readouterr().out and len(account.ids()) == 2
    assert main(["runpod", "status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["role"] for row in rows} == {"volume", "trainer"} and {row["state"] for row in rows} == {
        "tracked"
    }
    assert main(["runpod", "down", "--volumes"]) == 0
    assert capsys.readouterr().out == "nothing is there\n" and not account.ids()


def test_the_record_is_for_its_owner_only(account: Any, tmp_path: Path) -> None:
    assert main(["runpod", "up", *IMAGE]) == 0
    record = tmp_path / "psuedoptimal" / "runpod" / "lab.jsonl"
    assert record.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up"], "--image"),
        (["up", *IMAGE, "--project", "My-Lab"], "project 'My-Lab'"),
        (["up", *IMAGE, "--sandbox", "endpoint"], "--sandbox-secret"),
        (["up", *IMAGE, "--volume-gb", "5"], "at least 10 GB"),
        (["up", *IMAGE, "--cloud", "COMMUNITY"], "no network volumes"),
        (["up", *IMAGE, "--cloud", "COMMUNITY", "--volume-gb", "0", "--decoder", "pod"], "private network"),
        (["up", *IMAGE, "--max-hours", "0"], "--max-hours='0'"),
        (["up", *IMAGE, "--env", "NAME"], "expected NAME=VALUE"),
        (["up", *IMAGE, "--env", "POD_DEADLINE=x"], "the deployer sets it itself"),
        (["up", *IMAGE, "--gpus", "RTX 5090"], "these are: A100 PCIe, L4, RTX 4090, RTX A5000"),
        (["up", *IMAGE, "--max-price", "0.1"], "no GPU in the catalogue"),
        (["up", *IMAGE, "--gpus", "L4"], "in stock"),
        (["up", *IMAGE, "--data-centers", "XX-1"], "take of EU-RO-1, EU-SE-1, US-TX-3"),
        (["logs", "decoder"], "there is none in the record"),
        (["logs", "--tail", "9999"], "0 to 5000"),
    ],
)
def test_bad_input_is_one_line_with_a_way_out(account: Any, capsys: Any, words: list[str], said: str) -> None:
    try:
        code = main(["runpod", *words])
    except SystemExit as error:
        code = int(str(error.code))
    assert code in (1, 2) and said in capsys.readouterr().err
    assert not account.ids()


def test_without_a_key_nothing_is_asked(account: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert main(["runpod", "status"]) == 2 and "RUNPOD_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("RUNPOD_API_KEY", "wrong")
    assert main(["runpod", "status"]) == 2
    assert "401" in capsys.readouterr().err
    monkeypatch.setenv("RUNPOD_API_BASE_URL", "http://api.runpod.io/v2")
    assert main(["runpod", "status"]) == 2 and "in the clear" in capsys.readouterr().err


def test_logs_print_the_tail_and_end(account: Any, capsys: Any) -> None:
    main(["runpod", "up", *IMAGE])
    pod = next(iter(account.all()["pods"]))
    account.set_pod(pod, lines=[f"line {number}" for number in range(10)])
    capsys.readouterr()
    assert main(["runpod", "logs", "--tail", "3"]) == 0
    assert [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "line 7",
        "line 8",
        "line 9",
    ]


@pytest.mark.parametrize(("tail", "most"), [(3, 3), (0, 0), (5000, 400)])
def test_logs_of_a_pod_that_never_stops_writing_end(api: Any, fake: Any, tail: int, most: int) -> None:
    pod, over = fake.create_pod("any"), threading.Event()
    fake.set_pod(pod, lines=["past"] * 4)

    def write() -> None:
        while not over.wait(0.02):
            fake.set_pod(pod, lines=["now"])

    writer, start = threading.Thread(target=write, daemon=True), time.monotonic()
    writer.start()
    try:
        for seen, _ in enumerate(api.logs(f"/pods/{pod}/logs", tail=tail, follow=False, most_s=1.0), 1):
            assert seen <= most and time.monotonic() - start < 8
    finally:
        over.set()
        writer.join()


def test_following_goes_on_after_a_cut_without_a_gap_or_a_repeat(api: Any, fake: Any) -> None:
    pod = fake.create_pod("any")
    fake.set_pod(pod, lines=["one", "two", "CUT", "three"])
    seen: list[str] = []

    def follow() -> None:
        for line in api.logs(f"/pods/{pod}/logs", tail=100, follow=True):
            seen.append(line.line)
            if line.line == "end":
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    time.sleep(0.5)
    fake.set_pod(pod, lines=["end"])
    thread.join(10)
    assert seen == ["one", "two", "CUT", "three", "end"]


def test_bodies_have_the_documented_names() -> None:
    """Spelt out once, against the published description; the fake refuses any other."""
    body = schemas.PodBody(
        name="n", image="i", args="a", env={"A": "b"},
        gpu=schemas.Gpu(id="g", count=2, min_cuda_version="12.8"),
        cloud="SECURE", data_center_ids=["X"], disk=20, global_networking=True,
        mounts=schemas.Mounts(network=[schemas.NetworkMount(volume_id="v", path="/w")]),
    )  # fmt: skip
    assert body.to_json() == {
        "name": "n", "image": "i", "args": "a", "env": {"A": "b"}, "cloud": "SECURE", "dataCenterIds": ["X"],
        "gpu": {"id": "g", "count": 2, "minCudaVersion": "12.8"}, "disk": 20, "globalNetworking": True,
        "mounts": {"network": [{"volumeId": "v", "path": "/w"}]},
    }  # fmt: skip
