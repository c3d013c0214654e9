"""What several rooms' tests need: real servers on free ports. Nothing here stands in for our own code."""

from __future__ import annotations

import functools
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from httpx._transports import default

from shared.server import Server

# Until all is imported: none of it is garbage, and a third of the collecting would be spent on seeing that.
gc.disable()
# Several workers and the services they start share the cores: more threads would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parent.parent
_warm = sys.modules.get("warm")  # a worker that was forked by it has it
if _warm is None:
    _spec = importlib.util.spec_from_file_location("warm", REPO / "tests" / "warm.py")
    assert _spec and _spec.loader
    _warm = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_warm)
subprocess.Popen = _warm.Popen  # type: ignore[misc]
# Each client would read its 150 certificates anew, 25 ms long, and most of these speak plain HTTP.
default.create_ssl_context = functools.cache(httpx.create_ssl_context)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no worker has one of them left at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Let the collector work, but keep it from what the tests have imported: that stays until the end."""
    gc.freeze()
    gc.enable()


@contextmanager
def _running(app: FastAPI) -> Iterator[str]:
    """Serve an app of `create_service` in a thread until the block ends, and give its URL."""
    server = Server(app, app.state.settings)
    server.config.port = 0
    thread = threading.Thread(target=server.run, name=f"serve {app.title}")
    thread.start()
    try:
        end = time.monotonic() + 60
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError(f"{app.title} did not start: {app.state.startup_error}")
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def live() -> Iterator[Callable[[FastAPI], str]]:
    """Serve an app really, over HTTP: `url = live(create_app(settings))`. It stops when the test ends."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(_running(app))


@pytest.fixture(scope="module")
def live_module() -> Iterator[Callable[[FastAPI], str]]:
    """As `live`, for one server that all tests of a module share."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(_running(app))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of data sets: PSUEDOPTIMAL_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("PSUEDOPTIMAL_DATA", REPO / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set PSUEDOPTIMAL_DATA to the folder that holds them")
    return folder
