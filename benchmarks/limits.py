"""How exact the sandbox's limits are, and whether a busy machine changes a verdict.

    python benchmarks/limits.py                                  # by bubblewrap
    python benchmarks/limits.py --jail gvisor

Four parts, over HTTP: how far past its wall time a program lives; whether memory that runs out is reported as
memory; whether ten megabytes of honest output pass; and one request, 200 times, beside as many busy processes
as there are processors, whose verdicts have to be one verdict. Exit status 1 where one of them does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving import Client, percentiles, service

WALL_S = 0.5
OVERSHOOT_MS = 100.0
_ASLEEP = {
    "program": "import time\ndef f(): time.sleep(60)",
    "tests": ["assert f() == 1"],
    "limits": {"wall_s": WALL_S},
}
_BOMBS = (
    "def f():\n    y = []\n    while True: y.append(bytearray(1 << 20))",
    "def f(): return 'x' * (1 << 34)",
    "x = list(range(10 ** 9))\ndef f(): return 1",
    "def f():\n    y = {}\n    while True: y[len(y)] = [0] * 1000",
)
_LOUD = {
    "program": "def f():\n    for _ in range(1000): print('x' * 10_239)\n    return 1",
    "tests": ["assert f() == 1"],
    "limits": {"output_kb": 11_000},
}
# An order of a set, a comparison, a failure with a message, a test that runs in the judge, work to do.
_SAME = {
    "program": (
        "def names(): return {'apple', 'pear', 'fig', 'plum'}\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def wrong(x): return [x, {x: 'no'}]"
    ),
    "tests": [
        "assert list(names())[0] == 'fig'",
        "assert fib(16) == 987",
        "assert wrong(3) == [3, {3: 'yes'}]",
        "for n in range(10):\n    assert fib(n) >= n - 1",
    ],
}  # fmt: skip


def overshoot(client: Client, times: int) -> list[str]:
    """Print how far past its wall time a sleeping program lives, by the sandbox's own clock."""
    found = []
    for _ in range(times):
        (verdict,) = client.verdicts(_ASLEEP)
        assert verdict["outcome"] == "timeout", verdict
        found.append(verdict["usage"]["wall_ms"] - WALL_S * 1e3)
    p50, p99 = percentiles(found)
    print(f"wall time of {WALL_S:g} s, {times} times: over by p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return [] if p99 <= OVERSHOOT_MS else [f"wall time is passed by {p99:.0f} ms"]


def memory(client: Client, times: int) -> list[str]:
    """Print what programs that take all memory end as."""
    limits = {"memory_mb": 128, "cpu_s": 20, "wall_s": 60}
    jobs = [{"program": bomb, "tests": ["assert f() == 1"], "limits": limits} for bomb in _BOMBS]
    outcomes = Counter(verdict["outcome"] for _ in range(times) for verdict in client.verdicts(*jobs))
    print(f"{outcomes.total()} memory bombs ended as {dict(outcomes)}")
    return [] if set(outcomes) == {"memory"} else [f"memory bombs ended as {dict(outcomes)}"]


def output(client: Client, times: int) -> list[str]:
    """Print what programs that print ten megabytes end as."""
    outcomes = Counter(verdict["outcome"] for _ in range(times) for verdict in client.verdicts(_LOUD))
    print(f"{times} programs that print 10 MB ended as {dict(outcomes)}")
    return [] if set(outcomes) == {"passed"} else [f"honest output ended as {dict(outcomes)}"]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` processors busy with something else."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()


def same(client: Client, times: int) -> list[str]:
    """Print how many different verdicts one request gets on a busy machine."""
    count = os.cpu_count() or 1
    with busy(count):
        seen = Counter(_said(client.verdicts(_SAME)[0]) for _ in range(times))
    print(f"one request, {times} times beside {count} busy processes: {len(seen)} different verdict(s)")
    return [] if len(seen) == 1 else [f"{len(seen)} verdicts: {seen}"]


def _said(verdict: dict[str, Any]) -> str:
    """What a verdict says, without what was measured."""
    tests = [[test["outcome"], test["message"], test["assurance"]] for test in verdict["tests"]]
    return json.dumps([verdict["outcome"], tests, verdict["assurance"], verdict["stdout_tail"]])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jail", default="bwrap")
    parser.add_argument(
        "--times", type=int, default=200, help="requests of the last part; half for the first"
    )
    options = parser.parse_args()
    with service(options.jail, 2) as served:
        client = Client(served.url)
        faults = overshoot(client, max(2, options.times // 2)) + memory(client, max(1, options.times // 20))
        faults += output(client, max(1, options.times // 20)) + same(client, options.times)
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
