"""The stack from `docker compose build` on: a finished run, APIs, isolation, outages, scale, and no rest.

The tests build on each other's containers in the order they stand here; each can also be run alone.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pip._internal.models.index import PyPI

from .conftest import ROOT, Stack

pytestmark = [pytest.mark.docker, pytest.mark.slow]

INSIDE = Path(__file__).with_name("look_around.py")
JOB = {"program": "def f(n): return n * 2", "tests": ["assert f(2) == 4"]}


def test_docker_compose_up_ends_with_a_finished_run_and_its_report(built: Stack, tmp_path: Path) -> None:
    """A third of the demo's steps: its figures are `make demo`'s to reach; this one is not far from them."""
    started = time.monotonic()
    built.compose("up", "--exit-code-from", "trainer", files=["tests/stack/short.yml"], timeout_s=2400)
    built.tell(f"docker compose up ended after {time.monotonic() - started:.0f} s")
    built.compose("cp", "trainer:/lab/runs", str(tmp_path / "runs"))
    (run,) = (tmp_path / "runs").glob("demo-*-seed1")
    found = json.loads((run / "summary.json").read_text())["heldout"]
    built.tell(f"held out {found}")
    assert found["n"] == 240
    assert found["pass_rate"] >= 0.85
    assert found["compression_vs_untrained"] >= 2.5
    assert json.loads((run / "services.json").read_text())["sandbox"]["jail"] == "gvisor"
    assert "<html" in (run / "report.html").read_text()[:500].lower()


def test_both_services_answer_on_this_machine_and_ask_for_their_token(stack: Stack) -> None:
    with stack.client("decoder") as decoder, stack.client("sandbox") as sandbox:
        reply = decoder.post("/v1/decode", json={"messages": ["solve total nums % 2 != ** 2"]}).json()
        assert reply["programs"][0]["text"].startswith("def solve(nums):")
        verdict = sandbox.post("/v1/judge", json={"jobs": [JOB]}).json()["verdicts"][0]
        assert (verdict["outcome"], verdict["jail"]) == ("passed", "gvisor")
        found = sandbox.get("/v1/capabilities").json()
        assert found["jail"] == "gvisor"
        assert [probe["name"] for probe in found["probes"] if not probe["held"]] == []
        for client, path in ((decoder, "/v1/model"), (sandbox, "/v1/capabilities")):
            assert httpx.get(f"{client.base_url}{path}", trust_env=False).status_code == 401
    assert stack.token("decoder") != stack.token("sandbox")


def test_the_containers_are_as_hardened_as_the_file_says(stack: Stack) -> None:
    for service in ("decoder-service", "sandbox-service", "decoder-door", "sandbox-door"):
        (container,) = stack.containers(service)
        found = stack.inspect(container)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"], service
        assert not host["Privileged"] and not host["Devices"] and not host["Binds"], service
        assert host["Memory"] > 0 and host["PidsLimit"] > 0, service
        assert any("no-new-privileges" in option for option in host["SecurityOpt"]), service
        assert host["PidMode"] == "" and host["IpcMode"] != "host" and host["UsernsMode"] == "", service
        assert found["Config"]["User"] == "65532:65532", service
        assert {mount["Type"] for mount in found["Mounts"]} <= {"volume", "tmpfs"}, service
        token = stack.token(service.split("-")[0])
        assert token not in json.dumps(found), f"{service}: the token can be read from the engine's record"


def test_nothing_is_found_from_inside_a_service(stack: Stack) -> None:
    rooms = ("decoder", "sandbox")
    with ThreadPoolExecutor() as pool:
        found = dict(zip(rooms, pool.map(partial(seen_inside, stack), rooms), strict=True))
    assert found == {"decoder": [], "sandbox": []}


def seen_inside(stack: Stack, room: str) -> list[str]:
    """What is found from inside a service's container: neighbours, the outside, this machine."""
    other, port = ("sandbox", 8002) if room == "decoder" else ("decoder", 8001)
    out = [f"{other}-service:{port}", f"{other}-door:{port}", *outside()]
    for host, _, at in (address.partition(":") for address in outside()):
        out.append(f"{socket.gethostbyname(host)}:{at}")
    for service in (f"{other}-service", f"{other}-door"):
        (container,) = stack.containers(service)
        out += [f"{address}:{port}" for address in stack.addresses(container)]
    (own,) = stack.containers(f"{room}-service")
    with socket.create_server(("", 0)) as listener:
        machine = (own_address(), *stack.gateways(own))
        out += [f"{address}:{listener.getsockname()[1]}" for address in machine]
        said = stack.compose("exec", "-T", f"{room}-service", "python", "-", *out, stdin=INSIDE.read_text())
    return said.splitlines()


def outside() -> list[str]:
    """host:port of where this machine's packages come from, which does answer: from here it is reached."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True
    )
    sites = [urlsplit(site) for site in said.stdout.split() if site.startswith("http")]
    assert sites, "apt knows no site to try from inside"
    sites.append(urlsplit(PyPI.url))
    found = sorted({f"{s.hostname}:{s.port or {'http': 80, 'https': 443}[s.scheme]}" for s in sites})
    for host, _, port in (address.partition(":") for address in found):
        socket.create_connection((host, int(port)), 10).close()
    return found


def own_address() -> str:
    """This machine's address on the outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def test_a_judged_program_finds_nothing_of_the_container_around_it(stack: Stack) -> None:
    looks = {
        "its token": "open('/run/secrets/sandbox/token').read()",
        "the secrets": "__import__('os').listdir('/run/secrets')",
        "the service's code": "__import__('os').listdir('/opt/venv')",
        "the service's environment": "open('/proc/1/environ').read()",
        "the service": "__import__('socket').create_connection(('127.0.0.1', 8002), 2)",
        "the metadata address": "__import__('socket').create_connection(('169.254.169.254', 80), 2)",
        "a name": "__import__('socket').getaddrinfo('decoder-service', 8001)",
        "a shared file": "open('/tmp/../var/tmp/left', 'w')",
    }
    jobs = []
    for look in looks.values():
        body = f"  try:\n    {look}\n    return 'found'\n  except Exception:\n    return 'nothing'"
        jobs.append({"program": f"def f():\n{body}", "tests": ["assert f() == 'nothing'"]})
    with stack.client("sandbox") as sandbox:
        verdicts = sandbox.post("/v1/judge", json={"jobs": jobs}).json()["verdicts"]
    assert {name: verdict["outcome"] for name, verdict in zip(looks, verdicts, strict=True)} == dict.fromkeys(
        looks, "passed"
    )


def test_the_attack_suite_passes_against_the_composed_sandbox(stack: Stack) -> None:
    environment = {
        **os.environ,
        "SANDBOX_URL": f"http://127.0.0.1:{stack.ports['sandbox']}",
        "SANDBOX_TOKEN": stack.token("sandbox"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/security"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found and int(found[1]) > 100, done.stdout[-1000:]


def test_every_container_can_be_killed_and_started_again_during_a_run(stack: Stack) -> None:
    trainer = stack.train("killed", 16)
    for number, service in enumerate(("decoder-service", "sandbox-service")):
        stack.wait_step(trainer, "killed", 2 + 3 * number)
        (container,) = stack.containers(service)
        stack.docker("kill", container)
        time.sleep(3)
        stack.docker("start", container)
    stack.wait_step(trainer, "killed", 10)
    stack.docker("kill", trainer)
    assert stack.wait_end(trainer) == 137
    stack.compose(
        "run", "--rm", "--no-deps", "trainer", "train", "text", "--resume", "runs/killed", timeout_s=600
    )
    rows = stack.rows("killed")
    assert [row["step"] for row in rows] == list(range(1, 17))
    # An outage is nobody's reward: each step has a verdict for each of its messages.
    for row in rows:
        assert sum(share for name, share in row.items() if name.startswith("verdict/")) == pytest.approx(1)
    assert len(stack.rows("killed", "episodes.jsonl")) == 16 * 48
    # Every other verb finds the services too.
    said = stack.compose("run", "--rm", "--no-deps", "trainer", "evaluate", "runs/killed", timeout_s=600)
    assert re.search(r"^student +24 ", said, re.M), said
    stack.compose("run", "--rm", "--no-deps", "trainer", "report", "runs/killed")
    for room in ("decoder", "sandbox"):
        token = stack.token(room)
        (door,) = stack.containers(f"{room}-door")
        stack.docker("kill", door)
        stack.docker("start", door)
        stack.wait_healthy(door)
        assert stack.token(room) == token
        with stack.client(room) as client:
            assert client.get("/healthz").status_code == 200


def test_nothing_is_left_when_all_is_down(stack: Stack) -> None:
    assert stack.left_after_down() == []
