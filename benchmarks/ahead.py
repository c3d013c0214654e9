"""What it saves to compile programs while they wait for a lane: two sandboxes in turns, with it and without.

    python benchmarks/ahead.py --data ../shared/data

Three loads over HTTP: programs of the sequence DSL by POST /v1/execute, whose preamble is compiled too,
single requests of these with a pause before each, which nothing compiles ahead, and the MBPP references by
POST /v1/judge (without the longest, which computes for seconds). Rounds in turns, medians, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox import load, warm
from serving import REPO, Client, service

_LONGEST = "amicable"
_PAUSE_S = 0.06


def programs(count: int) -> list[dict[str, Any]]:
    """Return jobs of POST /v1/execute: short DSL programs that differ."""
    draw = random.Random(1)
    texts = [
        f"s1 = range_func_interval({draw.randrange(9)}, {draw.randrange(20, 99)}, {draw.randrange(1, 4)})\n"
        f"s2 = scan_add(s1)\noutput = reverse_list(s2)\n"
        for _ in range(count)
    ]
    return [{"program": text, "preamble": "sequence_dsl"} for text in texts]


def execute(url: str, jobs: list[dict[str, Any]]) -> float:
    """Return programs per second of one request with all of them."""
    body, client = json.dumps({"jobs": jobs}).encode(), Client(url)
    began = time.perf_counter()
    status, text = client.post("/v1/execute", body)
    seconds = time.perf_counter() - began
    client.close()
    outcomes = {one["outcome"] for one in json.loads(text).get("executions", [])}
    if status != 200 or outcomes != {"passed"}:
        raise SystemExit(f"the sandbox answered {status}, {outcomes}: {text[:300]!r}")
    return len(jobs) / seconds


def alone(url: str, jobs: list[dict[str, Any]]) -> float:
    """Return programs per second of single requests, each to a sandbox that has nothing else to do."""
    rates = []
    for job in jobs[:40]:
        time.sleep(_PAUSE_S)
        rates.append(execute(url, [job]))
    return statistics.median(rates)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("PSUEDOPTIMAL_DATA", str(REPO / ".." / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with mbpp/mbpp.jsonl")
    parser.add_argument("--jail", default="bwrap", choices=["gvisor", "docker", "bwrap", "process"])
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=256, help="DSL programs in a request")
    options = parser.parse_args()
    dsl = programs(options.jobs)
    loads: dict[str, Callable[[str], float]] = {
        f"POST /v1/execute, {options.jobs} DSL programs in a request": lambda url: execute(url, dsl),
        "POST /v1/execute, one at a time": lambda url: alone(url, dsl),
    }
    if (options.data / "mbpp" / "mbpp.jsonl").exists():
        mbpp = [job for job in load(options.data) if _LONGEST not in job["program"]]
        loads[f"POST /v1/judge, {len(mbpp)} MBPP references, 8 clients"] = lambda url: (
            warm(url, mbpp, 8, 64).rate
        )
    else:
        print(f"no MBPP in {options.data}: judging is not measured")
    with (
        service(options.jail, options.lanes) as ahead,
        service(options.jail, options.lanes, SANDBOX_COMPILE_AHEAD="false") as itself,
    ):
        print(f"| jail {options.jail}, {options.lanes} lanes | a second, ahead | by itself | ratio |")
        print("|---|---|---|---|")
        for name, work in loads.items():
            pairs = [(work(ahead.url), work(itself.url)) for _ in range(options.rounds + 1)][1:]
            first, second = (statistics.median(rates) for rates in zip(*pairs, strict=True))
            ratios = sorted(one / other for one, other in pairs)
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})"
            print(f"| {name} | {first:.0f} | {second:.0f} | {ratio} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
