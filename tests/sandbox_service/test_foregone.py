"""An answer that is the expected value's own bytes passes without the worker, and no other one does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sandbox_service.decode import decode
from sandbox_service.inside.codec import encode
from sandbox_service.judge import Judge
from sandbox_service.run import Answer, Ended
from sandbox_service.split import Split, split
from shared.wire import JudgeJob


def passing(test: str, setup: str = "") -> bytes:
    (found,) = split([test], setup)
    assert isinstance(found, Split)
    return found.passing


@pytest.mark.parametrize(
    ("test", "value"),
    [
        ("assert f(3) == 4", 4), ("assert 4 == f(3)", 4), ("assert f(3) == -4, 'why'", -4),
        ("assert f(3) == [1, (2.5, 'é'), {'a': None}, b'x', True]", [1, (2.5, "é"), {"a": None}, b"x", True]),
        ("assert f(3) == {7}", {7}), ("assert f(3) == 1e999", float("inf")), ("assert f(3) == 2j", 2j),
        ("assert f(3) == -0.0", -0.0), ("assert f(3) == ...", ...), ("assert f(3) == '\\ud800'", "\ud800"),
        ("assert f(3) is None", None), ("assert f(3) is True", True), ("assert f(3) is False", False),
        ("assert f(3)", True), ("assert not f(3)", False), ("assert f(3) == None", None),
    ],
)  # fmt: skip
def test_a_test_of_one_call_and_a_literal_has_an_answer_that_passes(test: str, value: object) -> None:
    assert passing(test) == encode(value)
    back = decode(passing(test))
    assert back == value and type(back) is type(value)


def test_a_constant_of_the_setup_is_a_literal_too() -> None:
    assert passing("assert f(3) == LIMIT", "LIMIT = (1, 2)") == encode((1, 2))


@pytest.mark.parametrize(
    "test",
    [
        "assert f(3) == g(3)", "assert f(3) == 2 + 2", "assert f(3) == float('nan')", "assert f(3) != 4",
        "assert f(3) == len('ab')", "assert f(3) == [n for n in range(3)]", "assert f(3) < 4",
        "assert f(3) is 4", "assert f(3) is not None", "assert 3 < f(3) == 4", "assert f(3) == 4 and True",
        "assert f(3) == 4\nassert f(4) == 5", "x = f(3)\nassert x == 4", "assert f(3)[0] == 4", "f(3)",
        "assert round(f(3), 2) == 4", "assert f(3) in [4]", "assert f(3) == +4 - 0", "assert f(3) == f'4'",
        "assert [f(3)] == [4]", "assert f(3) == [4, *[5]]", "assert f(3) == {**{}}",
        "assert f(3) == 1e999 - 1e999", "assert f(3) == {[]: 1}",
    ],
)  # fmt: skip
def test_what_needs_more_than_a_look_is_the_workers(test: str) -> None:
    assert passing(test) == b""


def test_a_literal_over_the_codecs_budget_is_the_workers() -> None:
    assert passing(f"assert f(3) == {'[' * 70}{']' * 70}") == b""
    assert passing(f"assert f(3) == {[0] * 200_000}") == b""


def any_literal(luck: random.Random, depth: int = 0) -> Any:
    kind = luck.randrange(6 if depth > 3 else 10)
    if kind < 6:
        numbers = [0, 1, -1, 255, 1 << 70, 0.1, -2.5, 1e300]
        return luck.choice([*numbers, True, False, None, "", "a\n'\"", "é", b"\xff"])
    parts = [any_literal(luck, depth + 1) for _ in range(luck.randrange(4))]
    keys = {str(n): part for n, part in enumerate(parts)}
    return [parts, tuple(parts), keys, {n for n, _ in enumerate(parts)} or [parts]][kind - 6]


def test_the_bytes_of_any_literal_read_back_as_what_the_test_expects() -> None:
    luck = random.Random(0)
    for _ in range(2000):
        value = any_literal(luck)
        assert decode(passing(f"assert f(3) == {value!r}")) == value


def ended(payload: bytes, status: Any = "value") -> Ended:
    return Ended("answered", "", (Answer(status, payload, 1.0),), 1.0, 1.0, None, "", "")


@pytest.mark.parametrize(
    ("test", "payload", "outcome", "asked"),
    [
        ("assert f(3) == 4", encode(4), "passed", False),
        ("assert f(3) == 4", encode(4.0), "passed", True),
        ("assert f(3) == True", encode(1), "passed", True),
        ("assert f(3) == {'a': 1, 'b': 2}", encode({"b": 2, "a": 1}), "passed", True),
        ("assert f(3) == 0.0", encode(-0.0), "passed", True),
        ("assert f(3)", encode([0]), "passed", True),
        ("assert f(3) == 4", encode(5), "failed", True),
        ("assert f(3) == 4", encode("4"), "failed", True),
        ("assert f(3) is True", encode(1), "failed", True),
        ("assert f(3) == 4", encode(4) + b" ", "passed", True),
        ("assert f(3) == 4", b"", "failed", True),
    ],
)
@pytest.mark.anyio
async def test_the_worker_is_asked_of_every_other_answer(
    test: str, payload: bytes, outcome: str, asked: bool
) -> None:
    judge = Judge()
    try:
        plan = judge.plan(JudgeJob(program="", tests=[test]))
        verdict = await judge.verdict(plan, ended(payload), "process")
        assert (verdict.outcome, judge.link.starts) == (outcome, int(asked)), verdict
    finally:
        await judge.aclose()


@pytest.mark.parametrize("status", ["raised", "missing"])
@pytest.mark.anyio
async def test_only_a_value_passes(status: str) -> None:
    judge = Judge()
    try:
        plan = judge.plan(JudgeJob(program="", tests=["assert f(3) == 4"]))
        assert (await judge.verdict(plan, ended(encode(4), status), "process")).outcome != "passed"
    finally:
        await judge.aclose()
