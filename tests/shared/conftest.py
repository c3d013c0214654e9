"""Peers for the tests of `shared`: a real service in a thread or a process, and one that misbehaves."""

from __future__ import annotations

import importlib.util
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from shared.ports import free_port

SCRIPT = Path(__file__).parent / "echo_service.py"


@pytest.fixture(scope="session")
def echo() -> ModuleType:
    """The module echo_service: make_app(settings), EchoSettings."""
    spec = importlib.util.spec_from_file_location("echo_service", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["echo_service"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(name="free_port")
def a_free_port() -> int:
    """A port nobody listens on now."""
    return free_port()


@dataclass
class Process:
    """The echo service as a process. `log` is what it wrote to stderr; read it after its end."""

    port: int
    child: subprocess.Popen[bytes]
    path: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.path.read_text()

    def wait_ready(self, timeout_s: float = 60) -> Process:
        end = time.monotonic() + timeout_s
        while True:
            try:
                httpx.get(f"{self.url}/healthz", trust_env=False)
                return self
            except httpx.TransportError:
                if self.child.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"did not start: {self.log}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def terminate(self) -> None:
        self.child.send_signal(signal.SIGTERM)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start the echo service as a process, `start(port, ECHO_TOKEN="...")`; it is killed at the end."""
    started: list[Process] = []

    def begin(port: int, **environment: str) -> Process:
        path = tmp_path / f"log-{len(started)}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ECHO_")}
        variables = {**clean, "PYTHONPATH": os.pathsep.join(sys.path), "ECHO_PORT": str(port), **environment}
        with path.open("wb") as log:
            child = subprocess.Popen([sys.executable, SCRIPT], env=variables, stdout=log, stderr=log)
        started.append(Process(port, child, path))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


@dataclass
class Peer:
    """A server that does what the plan says, one entry per request, the last entry for ever.

    An entry is (status, headers, body), or "hang", or "drop" (close without an answer), or "drip"
    (a byte at a time).
    """

    url: str
    plan: list[Any]
    seen: queue.Queue[tuple[float, str, dict[str, str]]] = field(default_factory=queue.Queue)
    stop: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    peer: Peer

    def do_POST(self) -> None:
        peer = self.peer
        self.rfile.read(int(self.headers.get("content-length") or 0))
        peer.seen.put((time.monotonic(), self.path, {k.lower(): v for k, v in self.headers.items()}))
        act = peer.plan.pop(0) if len(peer.plan) > 1 else peer.plan[0]
        match act:
            case "hang":
                peer.stop.wait(30)
                self.close_connection = True
            case "drop":
                self.close_connection = True
            case "drip":
                self._drip()
            case (status, headers, body):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

    do_GET = do_POST

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.peer.stop.wait(0.1):
                self.wfile.write(b" ")
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _misbehaving(plan: list[Any]) -> Iterator[Peer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    peer = Peer(f"http://127.0.0.1:{server.server_port}", plan)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"peer": peer})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield peer
    finally:
        peer.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., Peer]]:
    """Start a peer that misbehaves on purpose: `misbehaving("hang", (200, {}, b"..."))`."""
    with ExitStack() as stack:
        yield lambda *plan: stack.enter_context(_misbehaving(list(plan)))
