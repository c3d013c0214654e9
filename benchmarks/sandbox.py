"""Verdicts per second: the sandbox over HTTP against a fresh jailed python per verdict, by the same jail.

    python benchmarks/sandbox.py --data ../shared/data --clients 8 --batch 64
    python benchmarks/sandbox.py --jail gvisor --jobs 200
    SANDBOX_DOCKER_HOST=unix:///var/run/docker.sock python benchmarks/sandbox.py --jail docker --jobs 200

Both ways judge the same MBPP references with the same limits on the same number of lanes, in turns, in one
run on one machine: read the ratio, not the rates. The cold way is the plain one (program and asserts in one
process, verdict by exit status, no HTTP); it starts no interpreter in vain: `-I -S`, nothing else is loaded.

One reference (the sum of amicable numbers) alone computes for seconds, which both ways pay in full: while it
holds one lane, no way can end the set. So the set is measured whole and without its longest program, and the
highest ratio that the whole set admits on the machine is printed beside what was reached.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from cold import Cold, cold_way

REPO = Path(__file__).resolve().parent.parent
ROOMS = ("shared", "sandbox-service")
LIMITS = {"cpu_s": 5.0, "wall_s": 15.0, "memory_mb": 512, "output_kb": 1024, "file_mb": 16, "processes": 16}


class Measured(NamedTuple):
    """One way, one round: verdicts a second, latency per request or process, and how many passed."""

    rate: float
    p50_ms: float
    p99_ms: float
    passed: int
    total: int


def load(data: Path) -> list[dict[str, Any]]:
    """Return the MBPP references as jobs of POST /v1/judge."""
    with (data / "mbpp" / "mbpp.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        {"program": row["code"], "tests": row["test_list"], "setup": row["test_setup_code"], "limits": LIMITS}
        for row in rows
    ]


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
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return Measured(total / seconds, cuts[49], cuts[98], sum(passed for passed, _ in counts), total)


@contextmanager
def service(lanes: int, jail: str, python: Path) -> Iterator[str]:
    """Start the sandbox as its own process, wait until it is ready, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(REPO / room) for room in ROOMS),
        **{"SANDBOX_PORT": str(port), "SANDBOX_LANES": str(lanes), "SANDBOX_JAIL": jail},
        **({} if jail == "docker" else {"SANDBOX_PYTHON": str(python)}),  # an image has its own
        "SANDBOX_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "sandbox_service"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise SystemExit("the sandbox did not start; see above")
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def warm(url: str, jobs: list[dict[str, Any]], clients: int, batch: int) -> Measured:
    """Measure POST /v1/judge with `batch` jobs per request, each client on a connection of its own.

    The client shares the cores with what it measures, so it is the standard library's, the leanest there is.
    """
    batches = [json.dumps({"jobs": jobs[at : at + batch]}).encode() for at in range(0, len(jobs), batch)]
    host, own = url.removeprefix("http://"), threading.local()

    def post(body: bytes) -> tuple[int, int]:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(host, timeout=300)
        own.connection.request("POST", "/v1/judge", body, {"Content-Type": "application/json"})
        reply = own.connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"the sandbox answered {reply.status}: {text[:500]!r}")
        verdicts = json.loads(text)["verdicts"]
        return sum(verdict["outcome"] == "passed" for verdict in verdicts), len(verdicts)

    return spread(batches, clients, post)


def default_python() -> Path:
    """Return the interpreter the sandbox takes when it is not told: the system's of this version, or ours."""
    system = Path("/usr/bin/python{}.{}".format(*sys.version_info))
    return system if system.exists() else Path(getattr(sys, "_base_executable", sys.executable))


def cold(jobs: list[dict[str, Any]], lanes: int, way: Cold) -> Measured:
    """Measure a fresh jail and interpreter per verdict, `lanes` at a time."""

    def run(job: dict[str, Any]) -> tuple[int, int]:
        text = "\n".join((job["setup"], job["program"], *job["tests"]))
        return int(way.passes(text.encode(), LIMITS["wall_s"])), 1

    return spread(jobs, lanes, run)


class Set(NamedTuple):
    """A set of jobs and what was measured on it, round by round; `way` names the cold one."""

    name: str
    way: str
    jobs: list[dict[str, Any]]
    batched: list[Measured]
    single: list[Measured]
    plain: list[Measured]

    def show(self, batch: int) -> None:
        """Print this set's table and its ratios."""
        print(
            f"\n{self.name}\n\n| way | verdicts/s | range | p50 ms | p99 ms | passed |\n"
            "|---|---|---|---|---|---|"
        )
        row(f"POST /v1/judge, {batch} per request (ms per request)", self.batched)
        row("POST /v1/judge, 1 per request", self.single)
        row(self.way, self.plain)
        first, second = (
            statistics.median(warm.rate / cold.rate for warm, cold in zip(way, self.plain, strict=True))
            for way in (self.batched, self.single)
        )
        print(f"\nratio: {first:.1f} in batches, {second:.1f} one by one (medians over the rounds)")


def row(name: str, rounds: list[Measured]) -> None:
    """Print one way's rounds."""
    rate = statistics.median(one.rate for one in rounds)
    middle = min(rounds, key=lambda one: abs(one.rate - rate))
    print(
        f"| {name} | {rate:.0f} | {min(r.rate for r in rounds):.0f}..{max(r.rate for r in rounds):.0f} "
        f"| {middle.p50_ms:.1f} | {middle.p99_ms:.1f} | {middle.passed}/{middle.total} |"
    )


def cpu_seconds(url: str, jobs: list[dict[str, Any]]) -> list[float]:
    """Return the CPU time each program takes, by the sandbox's own count."""
    reply = httpx.post(f"{url}/v1/judge", json={"jobs": jobs}, timeout=300)
    reply.raise_for_status()
    return [verdict["usage"]["cpu_ms"] / 1e3 for verdict in reply.json()["verdicts"]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("PSUEDOPTIMAL_DATA", str(REPO / ".." / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with mbpp/mbpp.jsonl")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="jobs per request")
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jail", default="bwrap")
    parser.add_argument("--jobs", type=int, default=974, help="how many of the references")
    parser.add_argument("--python", type=Path, default=default_python(), help="interpreter of both ways")
    options = parser.parse_args()
    python = options.python.resolve()
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    jobs = load(options.data)[: options.jobs]
    with service(options.lanes, options.jail, python) as url, cold_way(options.jail, python, LIMITS) as way:
        seconds = cpu_seconds(url, jobs)
        longest = max(range(len(jobs)), key=seconds.__getitem__)
        rest = jobs[:longest] + jobs[longest + 1 :]
        sets = [
            Set(f"all {len(jobs)} references", way.name, jobs, [], [], []),
            Set(
                f"without the longest, which computes for {seconds[longest]:.2f} s",
                way.name,
                rest,
                [],
                [],
                [],
            ),
        ]
        for number in range(options.rounds):
            for one in sets:
                one.batched.append(warm(url, one.jobs, options.clients, options.batch))
                one.single.append(warm(url, one.jobs, options.clients, 1))
                one.plain.append(cold(one.jobs, options.lanes, way))
                rates = ", ".join(f"{way[-1].rate:.0f}" for way in (one.batched, one.single, one.plain))
                load_now = os.getloadavg()[0]
                print(
                    f"round {number + 1}, {one.name}: {rates} verdicts/s; load {load_now:.1f}",
                    file=sys.stderr,
                )
    print(
        f"MBPP references, {options.lanes} lanes, {options.clients} clients, jail {options.jail}; "
        f"both ways run the programs on {python} ({version})"
    )
    for one in sets:
        one.show(options.batch)
    most = len(jobs) / seconds[longest]
    base = statistics.median(one.rate for one in sets[0].plain)
    print(
        f"\nwhile the longest program computes, no way can end the whole set: at most {most:.0f} verdicts/s, "
        f"a ratio of {most / base:.1f}, on this machine"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
