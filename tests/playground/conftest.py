"""A small run that was really trained, with real services; and the page that shows it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from playground.app import create_app
from playground.settings import PlaygroundSettings
from trainer.supervise import Service

NAME = "trained"
TRAIN = [
    "train", "text", "--config", "starter-text.yaml", "--name", NAME, "--max-steps", "4", "--eval-steps", "2",
    "--save-steps", "4", "--batch-size", "8", "--train-tasks", "40", "--validation-tasks", "6",
    "--heldout-tasks", "4", "--logging-steps", "1",
]  # fmt: skip


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The starter's decoder and a sandbox in the process jail, as processes."""
    logs = tmp_path_factory.mktemp("rooms")
    decoder = Service("decoder", logs / "decoder.log", {"DECODER_ENGINE": "hf"})
    sandbox = Service("sandbox", logs / "sandbox.log", {"SANDBOX_JAIL": "process"})
    for service in (decoder, sandbox):
        service.start()
    for service in (decoder, sandbox):
        service.wait_ready()
    yield SimpleNamespace(decoder=decoder.url, sandbox=sandbox.url)
    for service in (decoder, sandbox):
        service.stop()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A text run of four steps that was evaluated. Made once, whichever process of the tests comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "playground-runs"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / NAME / "evaluation.json").is_file():
            rooms = request.getfixturevalue("rooms")
            urls = ["--decoder-url", rooms.decoder, "--sandbox-url", rooms.sandbox]
            psuedoptimal(*TRAIN, "--runs", str(shared), *urls)
            psuedoptimal("evaluate", str(shared / NAME), "--n", "4", *urls)
    return shared / NAME


def psuedoptimal(*args: str) -> None:
    from trainer.cli import main

    assert main(args) == 0, args


@pytest.fixture
def runs(tmp_path: Path, trained: Path) -> Path:
    """A runs folder of the test's own, with a copy of the trained run in it."""
    shutil.copytree(trained, tmp_path / "runs" / NAME)
    return tmp_path / "runs"


@pytest.fixture
def serve(live: Callable[[Any], str]) -> Iterator[Callable[..., httpx.Client]]:
    """Serve a runs folder really, and give a client: `serve(runs, refresh_s=0.2)`."""
    clients = ExitStack()

    def start(folder: Path, **settings: Any) -> httpx.Client:
        url = live(create_app(made(folder, **settings)))
        client = httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60, trust_env=False)
        return clients.enter_context(client)

    with clients:
        yield start


def made(folder: Path, **settings: Any) -> PlaygroundSettings:
    """Settings whose services are not there, unless they are given."""
    absent = {"decoder_url": "http://127.0.0.1:9", "sandbox_url": "http://127.0.0.1:9"}
    return PlaygroundSettings(runs=folder, **{"refresh_s": 0.2, **absent, **settings})
