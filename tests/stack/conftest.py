"""The stack as a user starts it: real engine, real images, a project of its own that nothing is left of."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PORTS = {
    "decoder": "DECODER_PORT",
    "sandbox": "SANDBOX_PORT",
    "prometheus": "PROMETHEUS_PORT",
    "tensorboard": "TENSORBOARD_PORT",
    "playground": "PLAYGROUND_PORT",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the stack, which takes longest: the other worker has the rest meanwhile."""
    items.sort(key=lambda item: Path(__file__).parent not in item.path.parents)


class Stack:
    """One Compose project. `compose` is the command line, `docker` the engine's."""

    def __init__(self, project: str, tell: Callable[[str], None] = print) -> None:
        self.project, self.tell = project, tell
        self.ports = {room: free_port() for room in PORTS}
        self.environment = {
            **os.environ,
            **{name: str(self.ports[room]) for room, name in PORTS.items()},
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_ANSI": "never",
            "COMPOSE_PROGRESS": "plain",
        }
        if engine := os.environ.get("SANDBOX_DOCKER_HOST"):
            self.environment["DOCKER_HOST"] = engine

    def docker(
        self, *args: str, timeout_s: float = 300, check: bool = True, stdin: str = "", **more: str
    ) -> str:
        """Run `docker ARGS` at the root of the repository, with more environment, and return its stdout."""
        done = subprocess.run(
            ["docker", *args], cwd=ROOT, env={**self.environment, **more}, input=stdin, capture_output=True,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        said = f"docker {' '.join(args)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == 0 or not check, said
        return done.stdout

    def compose(
        self,
        *args: str,
        files: Sequence[str] = (),
        timeout_s: float = 300,
        check: bool = True,
        stdin: str = "",
        **more: str,
    ) -> str:
        """Run `docker compose ARGS` with the base file and overlays."""
        flags = [part for file in ("docker-compose.yml", *files) for part in ("-f", file)]
        return self.docker("compose", *flags, *args, timeout_s=timeout_s, check=check, stdin=stdin, **more)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, stopped ones too."""
        found = self.compose("ps", "--all", "--quiet", service).split()
        return sorted(found)

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        found = json.loads(self.docker("inspect", container))[0]
        assert isinstance(found, dict)
        return found

    def addresses(self, container: str) -> list[str]:
        """A container's addresses in its networks."""
        return [each["IPAddress"] for each in self.inspect(container)["NetworkSettings"]["Networks"].values()]

    def gateways(self, container: str) -> list[str]:
        """This machine's addresses in a container's networks, where it has one."""
        networks = self.inspect(container)["NetworkSettings"]["Networks"].values()
        return [each["Gateway"] for each in networks if each["Gateway"]]

    def token(self, room: str) -> str:
        """The token that a room's door made."""
        return self.compose("exec", "-T", f"{room}-door", "cat", "/token/token").strip()

    def client(self, room: str) -> httpx.Client:
        """A client on this machine's loopback, as curl would be."""
        headers = {"Authorization": f"Bearer {self.token(room)}"}
        url = f"http://127.0.0.1:{self.ports[room]}"
        return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def metrics(self, container: str, room: str, port: int) -> str:
        """One instance's /metrics, asked inside its container."""
        code = (
            "import urllib.request as web\n"
            f"token = open('/run/secrets/{room}/token').read()\n"
            f"ask = web.Request('http://127.0.0.1:{port}/metrics')\n"
            "ask.add_header('Authorization', 'Bearer ' + token)\n"
            "print(web.urlopen(ask, timeout=20).read().decode())"
        )
        return self.docker("exec", container, "python", "-c", code)

    def train(self, name: str, steps: int, *more: str) -> str:
        """Start a short run in a container of its own and return its id."""
        sizes = [
            "--batch-size",
            "48",
            "--validation-tasks",
            "24",
            "--heldout-tasks",
            "24",
            "--eval-steps",
            "1000",
        ]
        return self.compose(
            "run", "--detach", "--no-deps", "trainer", "train", "text", "--config", "starter-text.yaml",
            "--name", name, "--max-steps", str(steps), "--save-steps", "4", *sizes, *more,
        ).strip()  # fmt: skip

    def rows(self, run: str, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The lines of a run's .jsonl file, read from the volume."""
        text = self.compose(
            "run", "--rm", "--no-deps", "--entrypoint", "cat", "trainer", f"runs/{run}/{file}"
        )
        return [json.loads(line) for line in text.splitlines()]

    def wait_step(self, container: str, run: str, step: int, timeout_s: float = 400) -> None:
        """Wait until a running trainer has written its step."""
        end = time.monotonic() + timeout_s
        while True:
            said = self.docker(
                "exec", container, "sh", "-c", f"wc -l < runs/{run}/metrics.jsonl || echo 0", check=False
            )
            if said.strip() and int(said.split()[0]) >= step:
                return
            assert time.monotonic() < end, self.docker("logs", "--tail", "30", container)
            time.sleep(0.5)

    def wait_end(self, container: str, timeout_s: float = 600) -> int:
        """Wait for a container's end and return its exit code."""
        return int(self.docker("wait", container, timeout_s=timeout_s))

    def wait_healthy(self, container: str, timeout_s: float = 300) -> None:
        """Wait until the engine calls a container healthy."""
        end = time.monotonic() + timeout_s
        while (state := self.inspect(container)["State"])["Health"]["Status"] != "healthy":
            assert time.monotonic() < end, state
            time.sleep(0.5)

    def left_after_down(self) -> list[str]:
        """Bring all down and name what of the project is there still; nothing should be."""
        self.compose(
            "--profile", "*", "down", "--volumes", "--timeout", "20", "--remove-orphans", timeout_s=180
        )
        mine = ["--filter", f"label=com.docker.compose.project={self.project}", "--quiet"]
        found = [
            self.docker("ps", "--all", *mine),
            *(self.docker(what, "ls", *mine) for what in ("network", "volume")),
        ]
        left = [line for text in found for line in text.splitlines()]
        for room, port in self.ports.items():
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    left.append(f"{room}'s port {port}")
        return left


def usable() -> str:
    """Why Docker cannot be used here, or an empty string."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    stack = Stack("none")
    for what in (("version",), ("compose", "version")):
        done = subprocess.run(
            ["docker", *what], env=stack.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            return f"docker {what[0]}: {done.stderr.strip()}"
    return ""


@pytest.fixture(scope="module")
def project(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A project with nothing in it; whatever a test left is removed."""
    if why := usable():
        pytest.skip(f"THE STACK WAS NOT TESTED: {why}; run it by tests/stack/engine.sh")
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\nstack: {text}", file=sys.stderr, flush=True)

    stack = Stack(f"stack{secrets.token_hex(3)}", tell)
    yield stack
    stack.compose("--profile", "*", "down", "--volumes", "--timeout", "5", "--remove-orphans", check=False)


@pytest.fixture(scope="module")
def built(project: Stack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The same with its images built: once, for the other worker waits and finds them."""
    with (tmp_path_factory.getbasetemp().parent / "stack-build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        project.compose("build", timeout_s=2400)
    seconds = time.monotonic() - started
    sizes = {
        room: int(project.docker("image", "inspect", "--format", "{{.Size}}", f"psuedoptimal/{room}"))
        for room in ("trainer", "decoder", "sandbox", "door")
    }
    told = ", ".join(f"{room} {size / 1e6:.0f} MB" for room, size in sizes.items())
    project.tell(f"images built in {seconds:.0f} s: {told}")
    return project


@pytest.fixture(scope="module")
def stack(built: Stack) -> Stack:
    """The services up and healthy, without a trainer."""
    started = time.monotonic()
    built.compose("up", "--detach", "--wait", "decoder-service", "sandbox-service", timeout_s=600)
    built.tell(f"services healthy after {time.monotonic() - started:.0f} s")
    return built
