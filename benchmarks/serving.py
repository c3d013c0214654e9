"""What the sandbox's benchmarks share: the service as a process of its own, and clients that take turns."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from shared.ports import free_port

REPO = Path(__file__).resolve().parent.parent
ROOMS = ("shared", "sandbox-service")
_READY_S = 300.0


class Measured(NamedTuple):
    """One way, one round: verdicts a second, latency per request or process, and how many passed.

    longest_s   CPU seconds of the longest program, as the sandbox counted them in this round; 0: not counted
    """

    rate: float
    p50_ms: float
    p99_ms: float
    passed: int
    total: int
    longest_s: float = 0.0


class Served(NamedTuple):
    """A sandbox that is ready: where it listens, and its process."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def service(jail: str, lanes: int, **settings: str) -> Iterator[Served]:
    """Start the sandbox as its own process, wait until it is ready, and end it.

    settings   more of the environment: SANDBOX_PYTHON, TMPDIR ...
    raises     SystemExit when it does not start; what it said is above
    """
    process = start(jail, lanes, **settings)
    try:
        yield process
    finally:
        process.process.send_signal(signal.SIGTERM)
        process.process.wait(60)


def start(jail: str, lanes: int, **settings: str) -> Served:
    """Start the sandbox and wait until it is ready; the caller ends it."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(REPO / room) for room in ROOMS),
        **{"SANDBOX_PORT": str(port), "SANDBOX_LANES": str(lanes), "SANDBOX_JAIL": jail},
        "SANDBOX_LOG_LEVEL": "warning",
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "sandbox_service"], env=environment)
    client, end = Client(f"http://127.0.0.1:{port}"), time.monotonic() + _READY_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit("the sandbox did not start; see above")
        try:
            if client.get("/readyz")[0] == 200:
                return Served(client.url, process)
        except OSError:
            client.close()
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"the sandbox was not ready within {_READY_S:.0f} s: {client.get('/readyz')[1][:500]!r}")


class Client:
    """One connection. It shares the cores with what it measures: the standard library's is the leanest."""

    def __init__(self, url: str) -> None:
        self.url = url
        host = url.removeprefix("http://").rstrip("/")
        self._connection = http.client.HTTPConnection(host, timeout=300)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body."""
        self._connection.request("GET", path)
        reply = self._connection.getresponse()
        return reply.status, reply.read()

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body; OSError or HTTPException when the connection breaks."""
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        return reply.status, reply.read()

    def verdicts(self, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
        """Judge jobs; RuntimeError for anything but verdicts."""
        status, text = self.post("/v1/judge", json.dumps({"jobs": jobs}).encode())
        if status != 200:
            raise RuntimeError(f"the sandbox answered {status}: {text[:500]!r}")
        verdicts: list[dict[str, Any]] = json.loads(text)["verdicts"]
        return verdicts

    def close(self) -> None:
        self._connection.close()


def spread(items: list[Any], clients: int, work: Callable[[Any], tuple[int, int]]) -> Measured:
    """Let `clients` threads take items until none is left. `work` returns (passed, verdicts)."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    times: list[float] = []
    counts: list[tuple[int, int]] = []
    failures: list[Exception] = []

    def client() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            started = time.perf_counter()
            try:
                counts.append(work(item))
            except Exception as error:  # noqa: BLE001 - raised again below, in the main thread
                failures.append(error)
                return
            times.append((time.perf_counter() - started) * 1e3)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    total = sum(count for _, count in counts)
    p50, p99 = percentiles(times)
    return Measured(total / seconds, p50, p99, sum(passed for passed, _ in counts), total)


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return the 50th and the 99th percentile."""
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return cuts[49], cuts[98]
