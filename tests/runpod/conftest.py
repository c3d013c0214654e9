"""The fake RunPod as a process of its own, and a deployer that talks to it over HTTP."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from runpod_deployer.api import Runpod
from runpod_deployer.deploy import Deployer
from runpod_deployer.deployment import Deployment
from runpod_deployer.journal import Journal

KEY = "rpa_test"
HERE = Path(__file__).resolve().parent


@dataclass
class Fake:
    """The server, and what the tests ask of it beside the API."""

    url: str
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, trust_env=False)

    @property
    def api_url(self) -> str:
        return f"{self.url}/v2"

    def reset(self) -> None:
        self.http.post("/_reset").raise_for_status()

    def rule(self, method: str, path: str, do: str, **more: Any) -> None:
        rule = {"method": method, "path": f"/v2{path}", "do": do, **more}
        self.http.post("/_rules", json=rule).raise_for_status()

    def log(self, method: str = "") -> list[dict[str, Any]]:
        return [row for row in self.http.get("/_log").json() if not method or row["method"] == method]

    def all(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.http.get("/_all").json()
        return found

    def ids(self) -> set[str]:
        return {resource for kind in self.all().values() for resource in kind}

    def names(self) -> list[str]:
        return sorted(each["name"] for kind in self.all().values() for each in kind.values())

    def create_pod(self, name: str) -> str:
        """Make a pod that is none of ours."""
        body = {"name": name, "image": "x", "gpu": {"id": "NVIDIA RTX A4000"}, "dataCenterIds": ["EU-RO-1"]}
        reply = self.http.post("/v2/pods", json=body, headers={"Authorization": f"Bearer {KEY}"})
        return str(reply.json()["id"])

    def set_pod(self, pod_id: str, **change: Any) -> None:
        self.http.post(f"/_pods/{pod_id}", json=change).raise_for_status()


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """One server process for all tests."""
    log = tmp_path_factory.mktemp("fake-runpod") / "log"
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "fake_runpod:app", "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 30
        while "running on http://" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        url = log.read_text(encoding="utf-8").partition("running on ")[2].split()[0]
        found = Fake(url)
        yield found
        found.http.close()
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def fake(fake_server: Fake) -> Fake:
    """The server, with an empty account."""
    fake_server.reset()
    return fake_server


@pytest.fixture
def api(fake: Fake) -> Iterator[Runpod]:
    """A client of the fake's, whose waits take no time."""
    client = Runpod(KEY, fake.api_url, deadline_s=30, pause=lambda _: None)
    yield client
    client.close()


@pytest.fixture
def deployer(api: Runpod, tmp_path: Path) -> Callable[..., Deployer]:
    """A deployer on this test's record: `deployer()` reads the record anew, as a new process does."""

    def make(project: str = "lab", said: list[str] | None = None) -> Deployer:
        say = said.append if said is not None else lambda _: None
        return Deployer(api, Journal(tmp_path / f"{project}.jsonl", project), say=say, pause=lambda _: None)

    return make


@pytest.fixture
def wanted() -> Callable[..., Deployment]:
    """Makes a deployment of all four roles, unless told otherwise."""

    def make(**more: Any) -> Deployment:
        given: dict[str, Any] = {
            "image": "docker.io/me/pod:1", "command": ["train", "text", "--name", "it's one"],
            "decoder": "pod", "sandbox": "endpoint", "sandbox_secret": "sandbox_key",
        }  # fmt: skip
        return Deployment.model_validate({**given, **more})

    return make
