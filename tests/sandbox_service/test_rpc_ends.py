"""How tests in the judge end when the program, its values or the worker do something else than answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids
from sandbox_service.judge import Judge
from sandbox_service.pool import Pool
from sandbox_service.rpc_pipe import Pipe
from sandbox_service.rpc_values import Untold
from shared.errors import Broken, InvalidRequest
from shared.wire import JudgeJob, Limits, Verdict

LIMITS = Limits(cpu_s=1, wall_s=20)
LOOP = "for i in range(4):\n    assert f(i) == i"
HONEST = {"program": "def f(x): return x", "tests": [LOOP]}
# Each leaves in the course of another ask.
LEAVING = {
    "at the names": (
        "import os\nfrom sandbox_service.inside import serve\nserve.Server.perform = lambda *a: os._exit(0)\n"
        "def f(x): return x",
        LOOP,
    ),
    "at a call": ("import os\ndef f(x): os._exit(0)", LOOP),
    "at a call that the test lets fail": (
        "import os\ndef f(x): os._exit(0)",
        "for i in [1]:\n    try: ok = f(i) == i\n    except BaseException: ok = False\n    assert ok",
    ),
    "at a call of a class of unittest": (
        "import os\ndef f(x): os._exit(0)",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 1)",
    ),
    "while its object is put into words": (
        "import os\nclass A:\n    def __str__(self): os._exit(0)\ndef f(x): return A()",
        "for i in [1]: assert f(i) == i, f(i)",
    ),
}


@asynccontextmanager
async def opened(talks: int = 1) -> AsyncIterator[Callable[..., Any]]:
    """Judge jobs in a jail of one lane, with the workers: `judge(*jobs)`."""
    pool, judge = Pool(Process(Uids(42_000, 4, 1000)), 1, 1, 1000), Judge(talks=talks)
    await pool.start()

    async def judged(job: dict[str, Any]) -> Verdict:
        wanted = JudgeJob.model_validate({"limits": LIMITS, **job})
        return await judge.judge(judge.plan(wanted), pool)

    judged.workers = judge.workers  # type: ignore[attr-defined]
    try:
        yield judged
    finally:
        await judge.aclose()
        await pool.close()


def outcomes(verdict: Verdict) -> list[str]:
    return [test.outcome for test in verdict.tests]


@pytest.mark.anyio
@pytest.mark.parametrize("name", LEAVING)
async def test_a_program_that_leaves_passes_nothing_and_holds_nobody_up(name: str) -> None:
    program, test = LEAVING[name]
    async with opened() as judge:
        began = time.monotonic()
        left, honest = await asyncio.gather(
            judge({"program": program, "tests": [test, LOOP, LOOP]}), judge(HONEST)
        )
        assert time.monotonic() - began < 10
    assert set(outcomes(left)) == {"failed"}, left.tests
    assert all("the program exited" in one.message for one in left.tests)
    assert honest.passed


@pytest.mark.anyio
async def test_a_run_that_ended_before_a_worker_was_free_has_none() -> None:
    async with opened() as judge:
        held = await judge.workers.free.get()
        task = asyncio.create_task(
            judge({"program": f"import os, threading\nthreading.Timer(0.2, os._exit, [0]).start()\n"
                              f"{HONEST['program']}", "tests": [LOOP]})
        )  # fmt: skip
        await asyncio.sleep(1)
        judge.workers.free.put_nowait(held)
        assert outcomes(await task) == ["failed"]
        assert held.process is None


def judged(client: httpx.Client, *jobs: dict[str, Any]) -> list[list[str]]:
    reply = client.post("/v1/judge", json={"jobs": jobs})
    assert reply.status_code == 200, reply.text
    return [[test["outcome"] for test in one["tests"]] for one in reply.json()["verdicts"]]


BACK = "for i in [1]:\n    x = f(i)\n    f(x)\n    assert x == 1"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("return {1: 2}.values()", "failed"),
        ("return {1: 2}.keys()", "failed"),
        ("import collections\n    return collections.OrderedDict(a=1).items()", "failed"),
        ("return ...", "failed"),
        ("return 'x' * (4 << 20)", "failed"),
        ("return x if type(x) is tuple else NotImplemented", "failed"),
        ("for _ in range(60): x = [x]\n    return x", "failed"),
    ],
)
def test_a_value_the_test_passes_back_costs_no_other_job_its_verdict(
    sandbox: httpx.Client, body: str, outcome: str
) -> None:
    test = BACK.replace("f(x)", "f([[x]])") if "range" in body else BACK
    jobs = {"program": f"def f(x):\n    {body}", "tests": [test, LOOP]}, HONEST
    (first, _), honest = judged(sandbox, *jobs)
    assert (first, honest) == (outcome, ["passed"])


@pytest.mark.anyio
async def test_a_range_too_long_costs_its_own_test_only() -> None:
    test = "for _ in [1]: f(iter(range(many())))"
    async with opened() as judge:
        program = f"{HONEST['program']}\ndef many(): return 10 ** 9"
        assert outcomes(await judge({"program": program, "tests": [test, LOOP]})) == ["failed", "passed"]


@pytest.mark.parametrize(
    "passed",
    ["(n for n in many())", "itertools.repeat(1, len(many()))", "itertools.count()", "map(abs, many())"],
)
def test_how_long_an_iterator_is_costs_no_other_job_its_verdict(sandbox: httpx.Client, passed: str) -> None:
    program = f"{HONEST['program']}\ndef many(): return range(10 ** 6)"
    swallowed = f"import itertools\nfor _ in [1]:\n    try: f({passed})\n    except BaseException: pass"
    reply = sandbox.post("/v1/judge", json={"jobs": [{"program": program, "tests": [swallowed]}, HONEST]})
    first, honest = reply.json()["verdicts"]
    assert (first["outcome"], honest["outcome"]) == ("failed", "passed")
    assert "in_sandbox" in first["tests"][0]["message"]


def test_more_calls_than_may_be_are_nothing_a_test_can_expect() -> None:
    pipe = Pipe(())
    pipe.asked = 100_000
    with pytest.raises(Untold, match="called more than 100000 times"):
        pipe.ask("load", "f", (), {})


def test_what_comes_of_a_programs_value_is_no_fault_of_the_test(sandbox: httpx.Client) -> None:
    tests = [
        "for _ in [1]: g(type(f()))",
        "for _ in [1]:\n    try: f()\n    except Exception as error: g(error)",
        "for _ in [1]: g(f().tzinfo)",
        "for _ in [1]: g(f().__eq__(object))",
    ]
    bodies = [
        "None", "...", "1 / 0", "g", "{1: 2}.items()", "'x' * (4 << 20)", "iter('abc')",
        "datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)",
    ]  # fmt: skip
    jobs = [
        {"program": f"import datetime\ndef f(): return {body}\ndef g(x): return x", "tests": tests}
        for body in bodies
    ]
    *_, honest = judged(sandbox, *jobs, HONEST)
    assert honest == ["passed"]


@pytest.mark.anyio
async def test_a_view_and_an_ellipsis_reach_the_program_as_what_they_are() -> None:
    program = (
        "def views(): return {1: 2}.keys(), {1: 2}.values(), {1: 2}.items(), ...\n"
        "def names(xs): return [(type(x).__name__, x is ... or list(x)) for x in xs]"
    )
    expected = "[('dict_keys', [1]), ('dict_values', [2]), ('dict_items', [(1, 2)]), ('ellipsis', True)]"
    test = f"for _ in [1]:\n    views_ = views()\n    assert names(views_) == {expected}"
    async with opened() as judge:
        assert (await judge({"program": program, "tests": [test]})).passed


@pytest.mark.anyio
async def test_what_only_a_test_can_have_made_is_its_own_fault() -> None:
    tests = [
        "class Node: pass\nfor _ in [1]:\n    try: f(Node())\n    except BaseException: assert False",
        "class E(Exception): pass\nfor _ in [1]: f(E())",
        "class Node: pass\nfor _ in [1]: f(Node)",
    ]
    async with opened() as judge:
        for test in tests:
            with pytest.raises(InvalidRequest, match="is passed to the program"):
                await judge({**HONEST, "tests": [test]})


@pytest.mark.anyio
async def test_a_class_of_the_test_that_is_no_exception_leaves_early_and_the_next_test_is_run() -> None:
    test = "class Stop(BaseException): pass\nfor i in [1]:\n    if f(i): raise Stop"
    fail = "import pytest\nfor i in [1]: pytest.fail('so it is')"
    async with opened() as judge:
        verdict = await judge({**HONEST, "tests": [test, f"f(1)\n{fail}", LOOP]})
    assert [(one.outcome, one.message) for one in verdict.tests] == [
        ("failed", "the test left early: Stop"),
        ("failed", "line 3, `for i in [1]: pytest.fail('so it is')`: so it is"),
        ("passed", ""),
    ]


# --- the worker dies ---------------------------------------------------------------------------------

COUNTING = {
    "program": (
        "import time\nseen = []\ndef f(x):\n    seen.append(x)\n    if x == 2: time.sleep(2)\n    return x\n"
        "def count(): return len(seen)"
    ),
    "tests": [LOOP, "for i in range(4): assert f(i + 4) == i + 4\nassert count() == 8"],
}


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(one) for one in found.stdout.split()]


async def at_work(judge: Any, but: int = 0) -> int:
    """Return the pid of a worker that has a fork at work, and is another than `but`."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.05)
            for worker in judge.workers.all:
                process = worker.process
                if process is not None and process.pid != but and children(process.pid):
                    return int(process.pid)


@pytest.mark.anyio
@pytest.mark.parametrize("which", ["the worker", "its fork"])
async def test_a_worker_killed_from_outside_is_replaced_and_the_program_is_asked_nothing_twice(
    which: str,
) -> None:
    async with opened() as judge:
        task = asyncio.create_task(judge(COUNTING))
        worker = await at_work(judge)
        await asyncio.sleep(0.3)
        os.kill(worker if which == "the worker" else children(worker)[0], signal.SIGKILL)
        verdict = await asyncio.wait_for(task, 30)
    assert verdict.passed, verdict.tests


@pytest.mark.anyio
async def test_a_worker_killed_twice_is_no_verdict_and_the_next_job_has_one() -> None:
    async with opened() as judge:
        task = asyncio.create_task(judge(COUNTING))
        first = await at_work(judge)
        os.kill(first, signal.SIGKILL)
        os.kill(await at_work(judge, but=first), signal.SIGKILL)
        with pytest.raises(Broken, match="died twice"):
            await asyncio.wait_for(task, 30)
        assert (await judge(HONEST)).passed


@pytest.mark.anyio
async def test_a_run_that_ends_while_its_worker_is_replaced_is_no_verdict() -> None:
    leaving = {**COUNTING, "program": COUNTING["program"].replace("time.sleep(2)", "time.sleep(6); exit()")}
    async with opened() as judge:
        assert (await judge(HONEST)).passed  # a worker that only starts now may come up when the run is over
        task = asyncio.create_task(judge({**leaving, "limits": Limits(cpu_s=1, wall_s=3)}))
        os.kill(await at_work(judge), signal.SIGKILL)
        with pytest.raises(Broken, match="the run ended before"):
            await asyncio.wait_for(task, 30)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("f(1)\nwhile True: pass", "CPU"),
        ("x = []\nwhile f(1): x.append(bytearray(1 << 20))", "MemoryError"),
        ("x = ()\nfor _ in range(f(400_000)): x = (x,)\nhash(x)", "it ended its worker"),
    ],
)
async def test_a_worker_that_dies_of_its_test_fails_that_test(test: str, said: str) -> None:
    async with opened() as judge:
        verdict = await judge({**HONEST, "tests": [LOOP, test, LOOP]})
        assert (await judge(HONEST)).passed
    assert outcomes(verdict)[:2] == ["passed", "failed"]
    assert said in verdict.tests[1].message
