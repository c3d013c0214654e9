"""Real jails for the sandbox's tests: a pool of lanes on an event loop of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sandbox_service.app import create_app
from sandbox_service.jails.bwrap import Bwrap
from sandbox_service.jails.docker import Docker
from sandbox_service.jails.gvisor import GVisor
from sandbox_service.jails.jail import Jail, JailMissing
from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids
from sandbox_service.pool import Pool
from sandbox_service.run import Ended, Run
from sandbox_service.settings import SandboxSettings
from shared.wire import Limits

JAILS = [
    "bwrap",
    "process",
    pytest.param("gvisor", marks=[pytest.mark.slow, pytest.mark.gvisor]),
    pytest.param("docker", marks=[pytest.mark.slow, pytest.mark.docker]),
    pytest.param("docker-gvisor", marks=[pytest.mark.slow, pytest.mark.docker, pytest.mark.gvisor]),
]
SMALL = Limits(cpu_s=1, wall_s=4, memory_mb=128, output_kb=64, file_mb=1, processes=8)


def docker_jail(uids: Uids, runtime: str) -> Docker:
    """Make the Docker jail with the engine and the image that the environment names."""
    given = SandboxSettings()
    return Docker(uids, host=given.docker_host, image=given.docker_image, runtime=runtime, memory_mb=2048)


MAKERS: dict[str, Callable[[Uids], Jail]] = {
    "gvisor": GVisor,
    "docker": partial(docker_jail, runtime="runc"),
    "docker-gvisor": partial(docker_jail, runtime="runsc"),
    "bwrap": Bwrap,
    "process": Process,
}


def make_jail(name: str) -> Jail:
    """Make a jail, or skip the test with what this machine is missing."""
    try:
        return MAKERS[name](Uids(20_000, 4, 1000))
    except JailMissing as error:
        pytest.skip(f"no {name} jail here: {error}")


class Cell:
    """A pool of one lane and one spare, with the event loop it lives on."""

    def __init__(self, jail: Jail) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool = Pool(jail, lanes=1, spares=1, recycle_runs=1000)
        self.wait(self.pool.start())

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something on the loop."""
        return self.loop.run_until_complete(work)

    def run(self, program: str, *calls: str, limits: Limits = SMALL, **more: Any) -> Ended:
        """Run one program."""
        ended = self.wait(self.pool.run(Run(program, more.pop("setup", ""), calls, limits, **more)))
        assert isinstance(ended, Ended)
        return ended

    def is_honest(self) -> None:
        """Fail unless an honest program gets its honest answer from whichever lane is next."""
        ended = self.run("import math\ndef f(x):\n    return x * 2, math.pi > 3.1, len(str(x))", "f(21)")
        assert ended.how == "answered", ended
        assert ended.answers[0].payload == b'["t",[["i","0x2a"],["B",1],["i","0x2"]]]'

    def close(self) -> None:
        """End all lanes."""
        self.wait(self.pool.close())
        self.loop.close()


@pytest.fixture
def cell_in() -> Iterator[Callable[[Jail], Cell]]:
    """Make a cell in a jail of the test's own; it ends with the test."""
    made: list[Cell] = []

    def make(jail: Jail) -> Cell:
        made.append(Cell(jail))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module", params=JAILS)
def cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """A cell for each jail this machine can give; all tests of a module share it."""
    made = Cell(make_jail(request.param))
    yield made
    made.close()


def wait_ready(client: httpx.Client) -> None:
    end = time.monotonic() + 60
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["auto", *JAILS[2:4]])
def sandbox(request: pytest.FixtureRequest, live_module: Callable[[FastAPI], str]) -> Any:
    settings = SandboxSettings(jail=request.param, docker_runtime="runc", lanes=2, spares=1, queue_limit=100)
    url = live_module(create_app(settings))
    with httpx.Client(base_url=url, timeout=120) as client:
        wait_ready(client)
        yield client
