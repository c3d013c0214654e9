"""Breaks that were found once, each by the request that showed it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox_service import judge_worker
from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids, _claimed, _close, _uids_in_use
from sandbox_service.run import Run
from shared.wire import Limits

RENAMED = (
    "import ctypes, os, time\nif os.fork() == 0:\n    ctypes.CDLL(None).prctl(15, b'\\xff\\xfe', 0, 0, 0)\n"
    "    os.setsid()\n    time.sleep(30)\nctypes.CDLL(None).prctl(15, b'\\xff', 0, 0, 0)\ntime.sleep(0.4)\n"
    "def f(): return 1"
)


def judge(sandbox: httpx.Client, program: str, test: str, setup: str = "") -> dict[str, Any]:
    job = {"program": program, "tests": [test], "setup": setup}
    reply = sandbox.post("/v1/judge", json={"jobs": [job]})
    assert reply.status_code == 200, reply.text
    verdict: dict[str, Any] = reply.json()["verdicts"][0]
    return verdict


def test_a_process_of_any_name_costs_no_lane(cell: Any) -> None:
    before = cell.pool.counts.deaths
    for _ in range(3):
        assert cell.run(RENAMED, "f()").how == "answered"
        cell.is_honest()
    assert cell.pool.counts.deaths == before


@pytest.mark.parametrize(
    ("setup", "program", "test", "outcome"),
    [
        ("a, b = 1, 2", "def f(): return 1", "assert f() == a", "passed"),
        ("a, b = 1, 2", "def f(): return (1, 2)", "assert f() == a", "failed"),
        ("x = [1]\nx.append(2)", "def f(): return [1, 2]", "assert f() == x", "passed"),
        ("x = [1]\nx.append(2)", "def f(): return [1]", "assert f() == x", "failed"),
        ("x = [1, 2]\nx[0] = 5", "def f(): return [5, 2]", "assert f() == x", "passed"),
        ("x = 1\ndef g():\n    global x\n    x = 5\ng()", "def f(): return 5", "assert f() == x", "passed"),
        ("x = 1\nglobals()['x'] = 5", "def f(): return 5", "assert f() == x", "passed"),
        ("x = [3, 1, 2]", "def f(x): x.sort()", "f(x)\nassert x == [1, 2, 3]", "passed"),
        ("from math import *", "def gcd(a, b): return 99", "assert gcd(4, 6) == 2", "failed"),
        ("from math import *", "def f(x): return x", "assert gcd(4, 6) == 2\nassert f(1) == 1", "passed"),
    ],
)
def test_a_setup_lends_the_judge_only_what_nothing_changes(
    sandbox: httpx.Client, setup: str, program: str, test: str, outcome: str
) -> None:
    assert judge(sandbox, program, test, setup)["outcome"] == outcome


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (
            "import itertools\ndef f(x): return itertools.permutations(x)",
            "assert list(f([1, 2])) == [(1, 2), (2, 1)]",
        ),
        (
            "import itertools\ndef f(x): return itertools.chain(x, [0])",
            "assert sorted(f([1, 2])) == [0, 1, 2]",
        ),
        ("from collections import Counter\ndef f(): return Counter('aab')", "assert f()['z'] == 0"),
        (
            "from collections import Counter\ndef f(): return Counter('aab')",
            "assert f().most_common(1) == [('a', 2)]",
        ),
        ("from collections import Counter\ndef f(): return Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
    ],
)  # fmt: skip
def test_values_of_the_library_keep_their_ways(sandbox: httpx.Client, program: str, test: str) -> None:
    assert judge(sandbox, program, test)["outcome"] == "passed"


def test_the_order_of_an_ordered_dict_counts(sandbox: httpx.Client) -> None:
    program = "from collections import OrderedDict\ndef f(): return OrderedDict([(1, 2), (3, 4)])"
    test = "from collections import OrderedDict\nassert f() == OrderedDict([{}])"
    assert judge(sandbox, program, test.format("(1, 2), (3, 4)"))["outcome"] == "passed"
    assert judge(sandbox, program, test.format("(3, 4), (1, 2)"))["outcome"] == "failed"


@pytest.mark.parametrize(
    "payload", [b'["s","\\ud800"]', b"[" * 300 + b"]" * 300, b"5", b'["f","1"]', b'["d",[1]]']
)
def test_a_forged_result_costs_its_own_execution_only(sandbox: httpx.Client, payload: bytes) -> None:
    forged = (
        f"import os, struct\nA = struct.Struct('!IcfI')\np = {payload!r}\n"
        "os.write(4, A.pack(2**32 - 1, b'v', 0, 0) + A.pack(0, b'v', 0, len(p)) + p)\nos._exit(0)"
    )
    jobs = [{"program": forged}, {"program": "output = [1]"}]
    reply = sandbox.post("/v1/execute", json={"jobs": jobs})
    assert reply.status_code == 200, reply.text
    assert [one["outcome"] for one in reply.json()["executions"]] == ["failed", "passed"]


def test_a_verdict_does_not_hang_on_the_birth_of_the_judges_worker(sandbox: httpx.Client) -> None:
    program = "def f(): return {'apple', 'pear', 'fig'}\ndef g(): return 'a' * 40 + 'b'"
    seen = set()
    for _ in range(3):
        seen.add(judge(sandbox, program, "assert list(f())[0] == 'pear'")["outcome"])
        judge(sandbox, program, "import re\nassert re.fullmatch('(a+)+', g())")  # ends the worker
    assert len(seen) == 1


def test_long_tests_do_not_fill_the_judges_worker() -> None:
    long = "assert H[0] == [" + "1, " * 9_000 + "]"
    before = judge_worker._short_code.cache_info().currsize
    for number in range(20):
        assert (
            judge_worker.evaluate(f"{long} or {number + 1}", ["f()"], [("value", b'["N"]')]).outcome
            == "passed"
        )
    assert judge_worker._short_code.cache_info().currsize == before


def test_a_run_that_somebody_else_killed_is_run_again(cell: Any) -> None:
    if cell.pool.jail.name not in ("bwrap", "process"):
        pytest.skip("no process of this machine stands for the run")
    name = f"sleep{os.getpid()}x"
    program = f"import time\nopen('{name}', 'w').close()\ntime.sleep(1.5)\ndef f(): return 3"
    killed = []

    def kill_it() -> None:
        end = time.monotonic() + 20
        while not killed and time.monotonic() < end:
            for entry in Path("/proc").iterdir():
                try:
                    inside = entry.name.isdigit() and (entry / "cwd" / name).exists()
                    if (
                        inside
                        and "python" in (entry / "comm").read_text()
                        and not (entry / "cwd" / "etc").exists()
                    ):
                        os.kill(int(entry.name), 9)
                        killed.append(entry.name)
                        return
                except OSError:
                    continue
            time.sleep(0.01)

    killer = threading.Thread(target=kill_it)
    killer.start()
    ended = cell.wait(cell.pool.run(Run(program, "", ("f()",), Limits(cpu_s=2, wall_s=20))))
    killer.join()
    assert killed
    assert (ended.how, [json.loads(one.payload) for one in ended.answers]) == ("answered", [["i", "0x3"]])


def test_shared_memory_counts(cell: Any) -> None:
    program = (
        "import mmap, os, time\nfor _ in range(5):\n    if os.fork() == 0:\n"
        "        m = mmap.mmap(-1, 100 << 20)\n"
        "        for i in range(0, 100 << 20, 4096): m[i] = 1\n        time.sleep(20)\ntime.sleep(20)"
    )
    if cell.pool.jail.name != "bwrap":
        pytest.skip("memory of all processes together is held where there is a process namespace")
    ended = cell.run(program, limits=Limits(cpu_s=5, wall_s=15, memory_mb=200, processes=8))
    assert ended.how == "memory", ended


def test_a_client_that_does_not_read_its_verdicts_holds_nobody_up(sandbox: httpx.Client) -> None:
    """Its jobs are done; what is not read waits in the connection, and not in the queue."""
    body = {"jobs": [{"program": f"x = 'é' * {n}", "tests": [f"assert f({n}) == 1"] * 40} for n in range(99)]}
    with sandbox.stream(
        "POST", "/v1/judge", json=body, headers={"Accept": "application/x-ndjson"}, timeout=120
    ) as silent:
        assert silent.status_code == 200
        end = time.monotonic() + 60
        while "sandbox_jobs 0.0" not in sandbox.get("/metrics").text:
            assert time.monotonic() < end, "the queue is still held"
            time.sleep(0.1)


def test_what_a_killed_service_left_in_tmp_is_swept_at_the_next_start(tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    old = Path(tempfile.gettempdir()) / f"psuedoptimal-sandbox-{gone.stdout.strip()}-x"
    mine = Path(tempfile.gettempdir()) / f"psuedoptimal-sandbox-{os.getpid()}-y"
    for folder in (old, mine):
        (folder / "lane-0").mkdir(parents=True)
    try:
        jail = Process(Uids(20_000, 4, 1000))
        jail.start(0)
        assert not old.exists()
        assert mine.exists(), "its process lives"
        jail.close()
    finally:
        shutil.rmtree(mine)


CLAIM = "from sandbox_service.jails.uids import _claimed; print(len(_claimed(range(0, 1000)))); input()"


@pytest.mark.skipif(sys.platform != "linux", reason="names without a file are Linux'")
def test_uids_are_claimed_by_one_service_until_its_process_has_ended(repo: Path) -> None:
    """With uids that no service gives out: other tests have theirs claimed meanwhile."""
    rooms = os.pathsep.join(str(repo / room) for room in ("shared", "sandbox-service"))
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIM], env={**os.environ, "PYTHONPATH": rooms},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with other:
        assert other.stdout and other.stdout.readline() == b"2\n"
        assert not _claimed(range(999, 2000)), "one of them is theirs"
        rest = _claimed(range(1000, 2000))
        assert len(rest) == 2, "a claim that failed holds nothing"
        other.kill()
    assert not _claimed(range(0, 2000)), "a half of them is ours"
    _close(rest)
    all_of_them = _claimed(range(0, 2000))
    assert len(all_of_them) == 4
    _close(all_of_them)


CLAIM_WITHOUT = """
import os, resource
from sandbox_service.jails.uids import _claimed
before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 3, before + 3))
print(_claimed(range(2000, 7000)), len(_claimed(range(2000, 2500))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_claim_that_runs_out_of_descriptors_fails_and_holds_nothing(repo: Path) -> None:
    rooms = os.pathsep.join(str(repo / room) for room in ("shared", "sandbox-service"))
    ended = subprocess.run(
        [sys.executable, "-c", CLAIM_WITHOUT], env={**os.environ, "PYTHONPATH": rooms},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "() 1\n"), ended.stderr


def test_no_lane_takes_another_services_uids(cell: Any) -> None:
    if cell.pool.jail.name not in ("bwrap", "process") or os.geteuid() != 0:
        pytest.skip("no uids of this machine are given to runs")
    theirs = cell.pool.jail.uids
    span = range(theirs.first, theirs.first + 4 * theirs.each)
    held = {uid for uid in _uids_in_use() if uid in span}
    assert held, "those that wait have uids already"
    for _ in range(30):
        first = Uids(20_000, 4, 1000).first
        assert not any(first <= uid < first + 4000 for uid in held)
