"""Verdicts per second: the sandbox over HTTP against a fresh jailed python per verdict, by the same jail.

    python benchmarks/sandbox.py --data ../shared/data --clients 8 --batch 64
    python benchmarks/sandbox.py --jail gvisor --jobs 200 --clients 1,2,8,64
    python benchmarks/sandbox.py --sandboxfusion http://127.0.0.1:8080
    SANDBOX_DOCKER_HOST=unix:///var/run/docker.sock python benchmarks/sandbox.py --jail docker --jobs 200

All ways judge the same MBPP references with the same limits on the same number of lanes, in turns, in one
run on one machine: read the ratio, not the rates. The cold ways are the plain one (program and asserts in one
process, verdict by exit status, no HTTP), by `python` as people start it and by `python -I -S`.
SandboxFusion's server, where one is given, gets the same text as the cold way by its /run_code.

One reference (the sum of amicable numbers) alone computes for seconds, which all ways pay in full: while it
holds one lane, no way can end the set. So the set is measured whole and without its longest program, and the
highest ratio that the whole set admits is printed beside what was reached. It comes from the CPU time that
this program took in the same round, for a machine's speed wavers from round to round.

The idle latency is that of single requests with a pause before each, of the commonest kind of program.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cold import Cold, cold_ways
from serving import REPO, Client, Measured, percentiles, service, spread

LIMITS = {"cpu_s": 5.0, "wall_s": 15.0, "memory_mb": 512, "output_kb": 1024, "file_mb": 16, "processes": 16}
_PAUSE_S = 0.06


def load(data: Path) -> list[dict[str, Any]]:
    """Return the MBPP references as jobs of POST /v1/judge."""
    with (data / "mbpp" / "mbpp.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        {"program": row["code"], "tests": row["test_list"], "setup": row["test_setup_code"], "limits": LIMITS}
        for row in rows
    ]


def warm(url: str, jobs: list[dict[str, Any]], clients: int, batch: int) -> Measured:
    """Measure POST /v1/judge with `batch` jobs per request, each client on a connection of its own."""
    batches = [json.dumps({"jobs": jobs[at : at + batch]}).encode() for at in range(0, len(jobs), batch)]
    own = threading.local()
    longest: list[float] = []

    def post(body: bytes) -> tuple[int, int]:
        if not hasattr(own, "client"):
            own.client = Client(url)
        status, text = own.client.post("/v1/judge", body)
        if status != 200:
            raise RuntimeError(f"the sandbox answered {status}: {text[:500]!r}")
        verdicts = json.loads(text)["verdicts"]
        longest.append(max(verdict["usage"]["cpu_ms"] for verdict in verdicts) / 1e3)
        return sum(verdict["outcome"] == "passed" for verdict in verdicts), len(verdicts)

    return spread(batches, clients, post)._replace(longest_s=max(longest))


def fusion(url: str, jobs: list[dict[str, Any]], clients: int) -> Measured:
    """Measure POST /run_code with one program and its asserts per request, as its clients do."""
    bodies = [json.dumps({"code": whole(job), "language": "python"}).encode() for job in jobs]
    own = threading.local()

    def post(body: bytes) -> tuple[int, int]:
        if not hasattr(own, "client"):
            own.client = Client(url)
        status, text = own.client.post("/run_code", body)
        if status != 200:
            raise RuntimeError(f"{url} answered {status}: {text[:500]!r}")
        return int(json.loads(text)["status"] == "Success"), 1

    return spread(bodies, clients, post)


def whole(job: dict[str, Any]) -> str:
    """Return a program and its tests as one text."""
    return "\n".join((job["setup"], job["program"], *job["tests"]))


def idle(url: str, times: int) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds of single requests to a service that has nothing else to do."""
    client, found = Client(url), []
    for n in range(times + 5):
        job = {
            "program": "def f(x):\n    return sorted(x)[0] + 1",
            "tests": [f"assert f([{n}, {n + 1}]) == {n + 1}"] * 3,
        }
        time.sleep(_PAUSE_S)
        began = time.perf_counter()
        (verdict,) = client.verdicts(job)
        assert verdict["outcome"] == "passed", verdict
        found.append((time.perf_counter() - began) * 1e3)
    return percentiles(found[5:])


def default_python() -> Path:
    """Return the interpreter the sandbox takes when it is not told: the system's of this version, or ours."""
    system = Path("/usr/bin/python{}.{}".format(*sys.version_info))
    return system if system.exists() else Path(getattr(sys, "_base_executable", sys.executable))


def cold(jobs: list[dict[str, Any]], lanes: int, way: Cold) -> Measured:
    """Measure a fresh jail and interpreter per verdict, `lanes` at a time."""
    return spread(jobs, lanes, lambda job: (int(way.passes(whole(job).encode(), LIMITS["wall_s"])), 1))


class Set:
    """Jobs and what was measured on them: rounds by the name of each way; `plain` are the cold ones."""

    def __init__(self, name: str, jobs: list[dict[str, Any]], plain: list[str]) -> None:
        self.name, self.jobs, self.plain = name, jobs, plain
        self.rounds: dict[str, list[Measured]] = {}

    def add(self, way: str, measured: Measured) -> None:
        self.rounds.setdefault(way, []).append(measured)

    def ratio(self, way: str, plain: str) -> float:
        """Return how many times a cold way's rate this one has, as the median over the rounds."""
        pairs = zip(self.rounds[way], self.rounds[plain], strict=True)
        return statistics.median(warm.rate / cold.rate for warm, cold in pairs)

    def show(self) -> None:
        """Print this set's table."""
        heads = " | ".join(f"x {name}" for name in self.plain)
        print(
            f"\n{self.name}\n\n| way | verdicts/s | range | {heads} | p50 ms | p99 ms | passed |\n"
            f"|---|---|---|{'---|' * len(self.plain)}---|---|---|"
        )
        for name, rounds in self.rounds.items():
            rate = statistics.median(one.rate for one in rounds)
            middle = min(rounds, key=lambda one: abs(one.rate - rate))
            times = " | ".join(f"{self.ratio(name, plain):.1f}" for plain in self.plain)
            print(
                f"| {name} | {rate:.0f} "
                f"| {min(r.rate for r in rounds):.0f}..{max(r.rate for r in rounds):.0f} "
                f"| {times} | {middle.p50_ms:.1f} | {middle.p99_ms:.1f} "
                f"| {middle.passed}/{middle.total} |"
            )


def cpu_seconds(url: str, jobs: list[dict[str, Any]]) -> list[float]:
    """Return the CPU time each program takes, by the sandbox's own count."""
    return [verdict["usage"]["cpu_ms"] / 1e3 for verdict in Client(url).verdicts(*jobs)]


def measure(one: Set, url: str, ways: list[Cold], options: argparse.Namespace) -> None:
    """Do one round on one set: every way, in turns."""
    for clients in options.clients:
        single = warm(url, one.jobs, clients, 1)
        batched = warm(url, one.jobs, clients, options.batch)
        one.add(f"POST /v1/judge, {clients} clients, {options.batch} per request (ms per request)", batched)
        one.add(f"POST /v1/judge, {clients} clients, 1 per request", single)
        if options.sandboxfusion:
            one.add(f"SandboxFusion, {clients} clients", fusion(options.sandboxfusion, one.jobs, clients))
    for way in ways:
        one.add(way.name, cold(one.jobs, options.lanes, way))
    rates = ", ".join(f"{rounds[-1].rate:.0f}" for rounds in one.rounds.values())
    print(f"{one.name}: {rates} verdicts/s; load {os.getloadavg()[0]:.1f}", file=sys.stderr)


def main() -> int:
    options = arguments()
    python = options.python.resolve()
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    jobs = load(options.data)[: options.jobs]
    own = {} if options.jail == "docker" else {"SANDBOX_PYTHON": str(python)}  # an image has its own
    with (
        service(options.jail, options.lanes, **own) as served,
        cold_ways(options.jail, python, LIMITS) as ways,
    ):
        p50, p99 = idle(served.url, options.idle)
        print(f"idle latency over HTTP, jail {options.jail}: p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
        seconds = cpu_seconds(served.url, jobs)
        longest = max(range(len(jobs)), key=seconds.__getitem__)
        rest = jobs[:longest] + jobs[longest + 1 :]
        without = f"without the longest, which computes for {seconds[longest]:.2f} s"
        plain = [way.name for way in ways]
        sets = [Set(f"all {len(jobs)} references", jobs, plain), Set(without, rest, plain)]
        for _ in range(options.rounds):
            for one in sets:
                measure(one, served.url, ways, options)
    print(
        f"MBPP references, {options.lanes} lanes, jail {options.jail}; "
        f"all ways run the programs on {python} ({version})"
    )
    for one in sets:
        one.show()
    for name, rounds in sets[0].rounds.items():
        if rounds[0].longest_s:
            bound(sets[0], name, plain)
    return 0


def bound(one: Set, way: str, plain: list[str]) -> None:
    """Print what a way could reach at most while one lane holds the longest program, and what it reached."""
    most = [measured.total / measured.longest_s for measured in one.rounds[way]]
    pairs = zip(one.rounds[way], most, strict=True)
    share = statistics.median(measured.rate / top for measured, top in pairs)
    print(
        f"\n{way}: while the longest program computes, no way can end the whole set: "
        f"at most {statistics.median(most):.0f} ({min(most):.0f}..{max(most):.0f}) verdicts/s, "
        f"of which {share:.0%} was reached"
    )
    for name in plain:
        against = zip(most, one.rounds[name], strict=True)
        times = statistics.median(top / cold.rate for top, cold in against)
        print(f"that is at most {times:.1f} times {name}; {one.ratio(way, name):.1f} was reached")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("PSUEDOPTIMAL_DATA", str(REPO / ".." / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with mbpp/mbpp.jsonl")
    parser.add_argument("--clients", type=_numbers, default=[8], help="how many at a time; several: 1,2,8,64")
    parser.add_argument("--batch", type=_number, default=64, help="jobs per request")
    parser.add_argument("--lanes", type=_number, default=2)
    parser.add_argument("--rounds", type=_number, default=3)
    parser.add_argument("--jail", default="bwrap", choices=["gvisor", "docker", "bwrap", "process"])
    parser.add_argument("--jobs", type=_number, default=974, help="how many of the references")
    parser.add_argument("--idle", type=_number, default=200, help="requests for the idle latency")
    parser.add_argument("--python", type=Path, default=default_python(), help="interpreter of all ways")
    parser.add_argument(
        "--sandboxfusion", metavar="URL", help="a SandboxFusion server to measure beside ours"
    )
    options = parser.parse_args()
    if not (options.data / "mbpp" / "mbpp.jsonl").exists():
        parser.error(
            f"--data {options.data}: there is no mbpp/mbpp.jsonl; put MBPP's published file there "
            "(mbpp/mbpp.jsonl of google-research/google-research), or name the folder that holds it"
        )
    if not usable(options.python):
        parser.error(f"--python {options.python}: no Python that runs; name an interpreter")
    return options


def usable(python: Path) -> bool:
    """Return whether an interpreter says its version."""
    try:
        return subprocess.run([python, "-V"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
