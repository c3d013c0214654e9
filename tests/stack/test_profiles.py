"""What is more than one container of each, or comes only when it is asked for: replicas, profiles, a pod.

The tests share one project, in the order they stand here; each can also be run alone.
"""

from __future__ import annotations

import html
import json
import re
import time
from pathlib import Path

import httpx
import pytest

from .conftest import ROOT, Stack
from .hub import hub

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_replicas_share_the_work_and_one_that_comes_back_is_used_again(stack: Stack) -> None:
    scale = ["--scale", "sandbox-service=3", "--scale", "decoder-service=2"]
    stack.compose(
        "up",
        "--detach",
        "--wait",
        "--no-recreate",
        *scale,
        "decoder-service",
        "sandbox-service",
        timeout_s=600,
    )
    sandboxes, decoders = stack.containers("sandbox-service"), stack.containers("decoder-service")
    assert (len(sandboxes), len(decoders)) == (3, 2)
    before = [judged(stack, container) for container in sandboxes]
    trainer = stack.train("scaled", 36)
    stack.wait_step(trainer, "scaled", 6)
    now = [judged(stack, container) for container in sandboxes]
    assert all(after > first for after, first in zip(now, before, strict=True)), (before, now)
    assert all("decoder_generated_total 0.0" not in stack.metrics(each, "decoder", 8001) for each in decoders)
    stack.docker("kill", sandboxes[0])
    stack.wait_step(trainer, "scaled", 9)
    stack.docker("start", sandboxes[0])
    assert stack.wait_end(trainer) == 0, stack.docker("logs", "--tail", "20", trainer)
    assert [row["step"] for row in stack.rows("scaled")] == list(range(1, 37))
    assert judged(stack, sandboxes[0]) > 0, "the instance that came back was not asked again"
    stack.compose(
        "up", "--detach", "--wait", "--no-recreate", "--scale", "sandbox-service=1", "sandbox-service"
    )


def judged(stack: Stack, container: str) -> float:
    """How many verdicts an instance has given since it started."""
    text = stack.metrics(container, "sandbox", 8002)
    return sum(float(count) for count in re.findall(r"^sandbox_outcomes_total\{.*\} (\S+)$", text, re.M))


def test_every_panel_of_the_dashboard_shows_something(stack: Stack) -> None:
    files = ["tests/stack/observe.yml"]
    flags = ("--profile", "observe")
    stack.compose(*flags, "build", "prometheus", files=files, timeout_s=600)
    stack.compose(*flags, "up", "--detach", "--no-deps", "prometheus", "run-metrics", files=files)
    trainer = stack.train("observed", 10)
    stack.wait_step(trainer, "observed", 8)
    board = json.loads((ROOT / "services/observe/dashboards/psuedoptimal.json").read_text())
    url = f"http://127.0.0.1:{stack.ports['prometheus']}"
    empty = []
    for panel in board["panels"]:
        for target in panel["targets"]:
            reply = httpx.get(f"{url}/api/v1/query", params={"query": target["expr"]}, trust_env=False).json()
            assert reply["status"] == "success", (panel["title"], reply)
            if not reply["data"]["result"]:
                empty.append((panel["title"], target["expr"]))
    targets = httpx.get(f"{url}/api/v1/targets", trust_env=False).json()["data"]["activeTargets"]
    assert {(each["labels"]["job"], each["health"]) for each in targets} == {
        ("decoder", "up"), ("sandbox", "up"), ("runs", "up"),
    }  # fmt: skip
    assert empty == []
    assert stack.wait_end(trainer) == 0
    stack.compose("--profile", "tensorboard", "up", "--detach", "--no-deps", "tensorboard")
    assert "TensorBoard" in page(f"http://127.0.0.1:{stack.ports['tensorboard']}")


def page(url: str, timeout_s: float = 90) -> str:
    """A page, as soon as somebody serves it."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return httpx.get(url, trust_env=False, timeout=30).text
        except httpx.TransportError as error:
            assert time.monotonic() < end, error
            time.sleep(1)


def test_the_page_shows_the_stacks_runs_and_asks_both_services(stack: Stack) -> None:
    stack.compose("--profile", "playground", "build", "playground", timeout_s=1200)
    stack.compose("--profile", "playground", "up", "--detach", "--wait", "--no-recreate", "playground")
    trainer = stack.train("shown", 1)
    assert stack.wait_end(trainer) == 0, stack.docker("logs", "--tail", "20", trainer)
    browser = {"accept": "text/html"}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{stack.ports['playground']}", headers=browser, timeout=60, trust_env=False
    ) as client:
        asked = client.get("/", follow_redirects=True)
        assert asked.url.path == "/login" and "/runs/" not in asked.text
        login = client.post("/login", data={"token": stack.token("playground")}, follow_redirects=True)
        assert login.status_code == 200 and "/runs/shown" in login.text
        assert client.get("/runs/shown").status_code == 200
        form = {"message": "solve total nums % 2 != ** 2", "tests": "assert solve([1, 2, 3]) == 10"}
        said = html.unescape(re.sub("<[^>]+>", "", client.post("/playground", data=form).text))
    assert "def solve(nums):" in said and "Verdict passed" in " ".join(said.split())
    assert "jail gvisor" in said


def test_a_pod_is_one_container_that_trains_with_both_services_in_it(stack: Stack, tmp_path: Path) -> None:
    files = ["tests/stack/pod.yml"]
    stack.compose("--profile", "pod", "build", "pod", files=files, timeout_s=1200)
    sizes = ["--max-steps=2", "--batch-size=16", "--validation-tasks=8", "--heldout-tasks=8"]
    train = ["trainer", "train", "text", "--config", "starter-text.yaml", "--name", "pod", *sizes]
    pod = stack.compose("--profile", "pod", "run", "--detach", "pod", *train, files=files).strip()
    assert stack.wait_end(pod) == 0, stack.docker("logs", "--tail", "40", pod)
    stack.docker("cp", f"{pod}:/workspace/psuedoptimal/runs/pod", str(tmp_path))
    run = tmp_path / "pod"
    assert json.loads((run / "summary.json").read_text())["step"] in (0, 2)
    assert json.loads((run / "services.json").read_text())["sandbox"]["jail"] == "process"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_models_come_through_one_container_and_are_read_without_a_way_out(
    stack: Stack, tmp_path: Path
) -> None:
    with stack.client("decoder") as decoder:
        starter = decoder.get("/v1/model").json()
    secret = tmp_path / "token"
    secret.write_text("hf_of_the_test\n")
    fetch = ("--profile", "models", "run", "--rm", "models")
    stack.compose("--profile", "models", "create", "models")
    gateway = stack.docker(
        "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", f"{stack.project}_hub"
    )
    with hub(ROOT / "decoder-service/starter", "lab/generator", "hf_of_the_test") as server:
        wanted = {
            "HF_ENDPOINT": f"http://{gateway.strip()}:{server.server_port}",
            "MODELS": "lab/generator",
            "DATASETS": "",
        }
        with pytest.raises(AssertionError, match="401"):
            stack.compose(*fetch, **wanted)
        stack.compose(*fetch, **wanted, HF_TOKEN_FILE=str(secret))
    stack.compose("up", "--detach", "--wait", "decoder-service", DECODER_MODEL="lab/generator")
    with stack.client("decoder") as decoder:
        found = decoder.get("/v1/model").json()
    assert found["name"] == "lab/generator"
    assert found["weights_sha256"] == starter["weights_sha256"]


def test_nothing_is_left_when_all_is_down(stack: Stack) -> None:
    assert stack.left_after_down() == []
