"""Does the sandbox leak? Thousands of verdicts, one in ten of them on an attack, and what is left afterwards.

    python benchmarks/soak.py                                    # 20,000 verdicts by bubblewrap
    python benchmarks/soak.py --jail gvisor --verdicts 4000

It counts processes, jails, descriptors, shared memory, message queues, files and memory after a warm-up and
after the last verdict, then kills the service by SIGKILL in the middle of its work, starts it again, and
looks for what the killed one left. Honest programs have to pass and attacks to earn nothing, all the way.
Exit status 1 where anything does not hold.

The attacks are those of tests/security that end within a quarter of a second: the others wait for limits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from serving import REPO, Client, Served, service, spread, start

sys.path.insert(0, str(REPO))
from tests.security import kernel, resources, values

BATCH = 25
ATTACK_S = 0.25
GROWTH = 0.05
_SETTLE_S = 20.0
# Children are forked eight at a time and given out one by one: so many more or fewer may wait in each jail.
_AHEAD, _CHILD_MB = 7, 1.0
# A worker is started when it is first needed, and again after an attack ended it: for each lane one that runs
# tests, one that compares, one that compiles. Two pipes hold each.
_SHARED_WORKERS, _WORKER_PIPES, _WORKER_MB = 2, 2, 20.0


class Job(NamedTuple):
    """A job of POST /v1/judge, and the outcomes that are right for it."""

    job: dict[str, Any]
    right: frozenset[str]


def honest(data: Path) -> list[Job]:
    """Return the MBPP references, or, without the data, as many programs of our own."""
    passed, path = frozenset(("passed",)), data / "mbpp" / "mbpp.jsonl"
    if path.exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        jobs = [
            {"program": row["code"], "tests": row["test_list"], "setup": row["test_setup_code"]}
            for row in rows
        ]
    else:
        jobs = [
            {"program": f"import math\ndef f(x): return [math.gcd(x, {n})] * {n % 7}", "tests": [
                f"assert f({m}) == {[__import__('math').gcd(m, n)] * (n % 7)}" for m in (4, 9, n)]}
            for n in range(1, 500)
        ]  # fmt: skip
    return [Job(job, passed) for job in jobs]


def attacks(client: Client, most: int) -> tuple[list[Job], int]:
    """Return the quick ones of `most` attacks of the corpus, and how many that was. Each is tried once."""
    cases, quick = [*values.CASES, *resources.CASES, *kernel.CASES], []
    random.Random(0).shuffle(cases)
    for case in cases[:most]:
        job = {"program": case.program, "tests": case.tests, "limits": case.limits, "setup": case.setup}
        began = time.monotonic()
        (verdict,) = client.verdicts(job)
        if time.monotonic() - began < ATTACK_S and verdict["outcome"] in case.right:
            quick.append(Job(job, case.right))
    return quick, min(most, len(cases))


def work(url: str, jobs: list[Job], clients: int) -> Counter[str]:
    """Judge all jobs; return how many verdicts were right, and the wrong ones by outcome."""
    found: Counter[str] = Counter()
    own = threading.local()

    def judge(batch: list[Job]) -> tuple[int, int]:
        if not hasattr(own, "client"):
            own.client = Client(url)
        verdicts = own.client.verdicts(*(one.job for one in batch))
        for one, verdict in zip(batch, verdicts, strict=True):
            right = verdict["outcome"] in one.right
            found["right" if right else f"{verdict['outcome']} instead of {'/'.join(sorted(one.right))}"] += 1
        return 0, len(batch)

    spread([jobs[at : at + BATCH] for at in range(0, len(jobs), BATCH)], clients, judge)
    return found


# --- what there is -----------------------------------------------------------------------------------


class Census(NamedTuple):
    """What a service holds on this machine. Memory in MiB: its own, and all its processes' together."""

    processes: int
    jails: int
    workers: int
    descriptors: int
    shm: int
    queues: int
    files: int
    own_mb: float
    all_mb: float

    def grown(self, before: Census) -> list[str]:
        """Name what is more than 5 % above `before`."""
        found, ahead, more = [], _AHEAD * self.jails, max(0, self.workers - before.workers)
        rooms = {
            "processes": ahead + more,
            "workers": max(0, self.jails + _SHARED_WORKERS - before.workers),
            "descriptors": _WORKER_PIPES * more,
            "all_mb": ahead * _CHILD_MB + more * _WORKER_MB,
        }
        for name, now, then in zip(self._fields, self, before, strict=True):
            room = rooms.get(name, 0)
            if now > then * (1 + GROWTH) + room:
                found.append(f"{name}: {then:g} before, {now:g} after")
        return found


def census(pid: int, folder: Path) -> Census:
    """Count what belongs to a service: its process tree, and what lies in the folder of its TMPDIR."""
    tree = descendants(pid)
    children = [one for one in tree if _stat(one)[1] == pid]
    workers = sum(b"_worker import" in _read(one, "cmdline") for one in children)
    sysv = [_lines(f"/proc/sysvipc/{kind}") - 1 for kind in ("shm", "sem", "msg")]
    return Census(
        processes=len(tree),
        jails=len(children) - workers,
        workers=workers,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
        shm=len(os.listdir("/dev/shm")) + sysv[0] + sysv[1],  # noqa: PTH208
        queues=sysv[2] + (len(os.listdir("/dev/mqueue")) if Path("/dev/mqueue").is_dir() else 0),  # noqa: PTH208
        files=sum(len(folders) + len(names) for _, folders, names in os.walk(folder)),
        own_mb=_field(pid, "status", b"VmRSS"),
        all_mb=sum(_field(one, "smaps_rollup", b"Pss") for one in (pid, *tree)),
    )  # fmt: skip


def descendants(pid: int) -> list[int]:
    """Return the processes that have `pid` among their ancestors."""
    parents = {int(name): _stat(int(name))[1] for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _stat(pid: int) -> tuple[bytes, int, int]:
    """Return state, parent and start time: with the pid they name a process for good."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (fields[0], int(fields[1]), int(fields[19])) if fields else (b"X", 0, 0)


def _field(pid: int, file: str, name: bytes) -> float:
    for line in _read(pid, file).splitlines():
        if line.startswith(name + b":"):
            return int(line.split()[1]) / 1024
    return 0.0


def _lines(path: str) -> int:
    return len(Path(path).read_text().splitlines()) if Path(path).exists() else 1


def settled(pid: int, folder: Path, before: Census) -> Census:
    """Count until nothing is above `before`, or what is there has had its time to go."""
    end = time.monotonic() + _SETTLE_S
    while True:
        now = census(pid, folder)
        if not now.grown(before) or time.monotonic() > end:
            return now
        time.sleep(0.5)


# --- a kill ------------------------------------------------------------------------------------------


def left_by_a_kill(jail: str, lanes: int, folder: Path) -> list[str]:
    """Kill a service in the middle of its work; say what is there after the next one's start and end."""
    first = start(jail, lanes, TMPDIR=str(folder))
    busy = {"program": "import os, time\nos.fork()\nos.fork()\ntime.sleep(30)", "tests": ["assert f() == 1"]}

    def post() -> None:
        with contextlib.suppress(OSError, HTTPException):  # its service is killed
            Client(first.url).verdicts(*[busy] * lanes)

    poster = threading.Thread(target=post)
    poster.start()
    time.sleep(1.5)
    held = {one: _stat(one)[2] for one in descendants(first.process.pid)}
    first.process.kill()
    first.process.wait()
    poster.join()
    with service(jail, lanes, TMPDIR=str(folder)) as second:
        end = time.monotonic() + _SETTLE_S
        while (alive := _alive(held)) and time.monotonic() < end:
            time.sleep(0.2)
        (verdict,) = Client(second.url).verdicts(
            {"program": "def f(): return 1", "tests": ["assert f() == 1"]}
        )
    found = [f"process {pid}: {_read(pid, 'cmdline')[:80]!r}" for pid in alive]
    found += [f"{path.relative_to(folder)}" for path in folder.rglob("*")]
    found += [] if verdict["outcome"] == "passed" else [f"an honest program {verdict['outcome']}"]
    return [*found, *_containers(folder)]


def _alive(held: dict[int, int]) -> list[int]:
    return [pid for pid, began in held.items() if _stat(pid)[2] == began and _stat(pid)[0] not in b"XZ"]


def _containers(folder: Path) -> list[str]:
    """Return the containers of lives in that folder, where there is an engine."""
    engine = os.environ.get("SANDBOX_DOCKER_HOST")
    if not engine:
        return []
    shown = subprocess.run(
        ["docker", "-H", engine, "ps", "-a", "--format", '{{.ID}} {{.Label "psuedoptimal.sandbox.life"}}'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [f"container {line}" for line in shown.stdout.splitlines() if str(folder) in line]


# --- the command -------------------------------------------------------------------------------------


def soak(served: Served, options: argparse.Namespace, folder: Path) -> list[str]:
    """Do the work on a service; return what does not hold."""
    client = Client(served.url)
    good = honest(options.data)
    bad, every = attacks(client, options.attacks)
    print(f"{len(good)} honest programs; {len(bad)} quick ones of {every} attacks", file=sys.stderr)
    luck = random.Random(0)
    jobs = [luck.choice(bad if luck.random() < 0.1 else good) for _ in range(options.verdicts)]
    warm = [*(good if options.verdicts >= len(good) else jobs), *bad]
    found = work(served.url, warm, options.clients)
    pid = served.process.pid
    time.sleep(1)
    before, began = census(pid, folder), time.monotonic()
    found += work(served.url, jobs, options.clients)
    seconds = time.monotonic() - began
    after = settled(pid, folder, before)
    print(
        f"{options.verdicts} verdicts in {seconds:.0f} s ({options.verdicts / seconds:.0f}/s), "
        f"jail {options.jail}"
    )
    print("\n| | before | after |\n|---|---|---|")
    for name, then, now in zip(before._fields, before, after, strict=True):
        print(f"| {name} | {then:.4g} | {now:.4g} |")
    wrong = [f"{count} verdicts {what}" for what, count in found.items() if what != "right"]
    print(f"\nright verdicts: {found['right']} of {found.total()}")
    return [*wrong, *after.grown(before)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("PSUEDOPTIMAL_DATA", str(REPO / ".." / "shared" / "data"))
    parser.add_argument(
        "--data", type=Path, default=Path(default), help="folder with mbpp/mbpp.jsonl, if there"
    )
    parser.add_argument("--jail", default="bwrap")
    parser.add_argument("--verdicts", type=int, default=20_000)
    parser.add_argument("--attacks", type=int, default=1000, help="how many of the corpus to draw from it")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--lanes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        with service(options.jail, options.lanes, TMPDIR=name) as served:
            faults = soak(served, options, folder)
        left = left_by_a_kill(options.jail, options.lanes, folder)
    print(f"left by a killed service after the next one's life: {', '.join(left) or 'nothing'}")
    for fault in faults:
        print(f"LEAK OR FAULT: {fault}")
    return 1 if faults or left else 0


if __name__ == "__main__":
    raise SystemExit(main())
