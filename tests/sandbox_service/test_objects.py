"""Answers without a value: honest tests of them pass at `rpc`, and nothing is forged by them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_service.judge import Judge
from shared.wire import Assurance, JudgeJob, Limits, Verdict

LIMITS = Limits(cpu_s=2, wall_s=10)
LIAR = (
    "class Liar:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
    "    def __hash__(s): return 0\n    def __lt__(s, o): return True\n"
    "    __gt__ = __le__ = __ge__ = __lt__\n"
    "    def __sub__(s, o): return 0.0\n    __rsub__ = __abs__ = __float__ = __sub__\n"
    "    def __contains__(s, o): return True\ndef f(*x): return {answer}\n"
)
# (program, tests): each test passes in one process with the program
HONEST = {
    "something to iterate over": (
        "class Numbers:\n    def __init__(self, n): self.n = n\n"
        "    def __iter__(self): return iter(range(self.n))\n"
        "    def __len__(self): return self.n\ndef f(n): return Numbers(n)",
        ["assert list(f(3)) == [0, 1, 2]", "assert sum(f(4)) == 6", "assert len(f(5)) == 5"],
    ),
    "objects that equal each other": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int\n"
        "def f(x): return P(x, x + 1)\ndef g(): return [P(1, 2), {'a': P(3, 4)}]",
        ["assert f(1) == P(1, 2)", "assert f(1) != P(2, 1)", "assert g() == [P(1, 2), {'a': P(3, 4)}]"],
    ),
    "a generator without an end": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        ["import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]", "assert next(f()) == 0"],
    ),
    "objects with an order": (
        "from functools import total_ordering\n@total_ordering\nclass V:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def __eq__(self, o): return self.n == o.n\n    def __lt__(self, o): return self.n < o.n\n"
        "def f(n): return V(n)",
        ["assert f(1) < f(2)", "assert max(f(1), f(3), f(2)).n == 3"],
    ),
}  # fmt: skip
FORGED = {
    "equals all": (
        "Liar()",
        ["assert f(2) == 4", "assert f(2) is not None and f(2) == [1]", "assert f(2) in (3, 4)"],
    ),
    "in a list": ("[Liar(), Liar()]", ["assert f(2) == [1, 2]", "assert sorted(f(2)) == [1, 2]"]),
    "tuned to a tolerance": (
        "Liar()",
        ["assert abs(f(2) - 4) < 1e-6", "assert f(2) - 4 == 0", "assert f(2) <= 4"],
    ),
    "in a dict": ("{Liar(): Liar()}", ["assert f(2) == {'a': 1}", "assert f(2)['a'] == 1"]),
    "not even false": ("Liar()", ["assert not f(2) != 4"]),
}  # fmt: skip


@pytest.fixture
def ask(cell: Any) -> Iterator[Any]:
    """Judge a program by tests in one real jail."""

    async def start() -> Judge:
        return Judge(talks=1)

    judge = cell.wait(start())

    def asked(program: str, tests: list[str], least: Assurance = "rpc") -> Verdict:
        plan = judge.plan(JudgeJob(program=program, tests=tests, limits=LIMITS), least)
        verdict = cell.wait(asyncio.wait_for(judge.judge(plan, cell.pool), 60))
        assert isinstance(verdict, Verdict)
        return verdict

    yield asked
    cell.wait(judge.aclose())


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes_with_objects_of_its_own(ask: Any, name: str) -> None:
    verdict = ask(*HONEST[name])
    assert [(test.outcome, test.message) for test in verdict.tests] == [("passed", "")] * len(verdict.tests)
    assert verdict.outcome == "passed"
    assert verdict.assurance == "rpc"


@pytest.mark.parametrize("name", FORGED)
def test_an_object_forges_nothing(ask: Any, cell: Any, name: str) -> None:
    answer, tests = FORGED[name]
    for test in tests:
        assert ask(LIAR.format(answer=answer), [test]).outcome in ("failed", "raised"), test
    cell.is_honest()


def test_who_asks_for_values_gets_no_more_than_values(ask: Any) -> None:
    program, tests = HONEST["objects that equal each other"]
    verdict = ask(program, [tests[0]], "value")
    assert (verdict.outcome, verdict.assurance) == ("failed", "value")


def test_what_fails_twice_keeps_what_was_found_first(ask: Any) -> None:
    program = HONEST["objects that equal each other"][0]
    verdict = ask(program, ["assert f(1) == P(1, 3)", "assert f(1) == 5", "assert f(2) == P(2, 3)"])
    assert [test.outcome for test in verdict.tests] == ["failed", "failed", "passed"]
    assert [test.assurance for test in verdict.tests] == ["value", "value", "rpc"]
    assert verdict.tests[1].message.startswith("f(1): expected 5, got ")
    assert (verdict.outcome, verdict.assurance) == ("failed", "rpc")


def test_a_program_that_answers_another_way_the_second_time_earns_its_tests_only(ask: Any) -> None:
    """What it is asked again is all it can pass: a wrong value of the first time stays wrong."""
    program = "class A: pass\ndef f(x): return A() if x else 3"
    verdict = ask(program, ["assert f(0) == 4", "assert f(1) == 4"])
    assert [test.outcome for test in verdict.tests] == ["failed", "failed"]
