"""The judge's worker: a process that outlives hostile values, or dies alone."""

from __future__ import annotations

import asyncio
import decimal
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sandbox_service.inside.codec import encode
from sandbox_service.judge_link import Case, JudgeLink
from sandbox_service.judge_worker import Finding, evaluate, printable
from sandbox_service.known import MODULES, is_plain_attribute
from sandbox_service.run import Answer
from shared.errors import Broken

T = TypeVar("T")


def value(one: Any) -> Answer:
    return Answer("value", encode(one), 0.1)


def case(remainder: str, *answers: Answer) -> Case:
    return Case(remainder, tuple(f"f({i})" for i in range(len(answers))), answers)


def with_link(work: Callable[[JudgeLink], Awaitable[T]], cpu_s: float = 0.3) -> T:
    """Run `work` with a link of its own, closed at the end."""

    async def main() -> T:
        link = JudgeLink(cpu_s)
        try:
            return await work(link)
        finally:
            await link.aclose()

    return asyncio.run(main())


def findings(*cases: Case) -> list[Finding]:
    return with_link(lambda link: link.evaluate(cases))


COLLIDING = json.dumps(["S", [["i", hex(i * (2**61 - 1))] for i in range(30_000)]]).encode()


@pytest.mark.parametrize(
    ("remainder", "answers", "message"),
    [
        ("assert H[0] == 4", [5], "f(0): expected 4, got 5"),
        ("assert 4 == H[0]", [5], "f(0): expected 4, got 5"),
        ("assert sorted(H[0]) == [1]", [[3, 2]], "sorted(f(0)): expected [1], got [2, 3]"),
        ("assert H[0] != 4", [4], "f(0) != 4 is false: 4 against 4"),
        ("assert H[0] == H[1]", [4, 5], "f(0) == f(1) is false: 4 against 5"),
        ("assert not H[0]", ["a"], "not f(0) is false; f(0) gave 'a'"),
        ("x = H[0]\nassert list(x) == [1]", [iter([2])], "list(x) == [1] is false: [2] against [1]"),
        ("assert H[0] == 'H[7]'", ["\x1b[2J"], r"f(0): expected 'H[7]', got '\x1b[2J'"),
        ("assert H[0] == 4", [object()], "f(0): expected 4, got <object of type object>"),
        ("assert H[0][0] == 4", [3], "assert f(0)[0] == 4: TypeError: 'int' object is not subscriptable"),
        ("assert H[0] == 4", [10**5000], "f(0): expected 4, got <int too long to print>"),
    ],
)
def test_a_failed_test_says_what_was_expected_and_what_came(
    remainder: str, answers: list[Any], message: str
) -> None:
    calls = [f"f({i})" for i in range(len(answers))]
    found = evaluate(remainder, calls, [("value", encode(one)) for one in answers])
    assert (found.outcome, printable(found.message)) == ("failed", message)


def test_an_answer_that_is_no_value_is_judged_at_its_place() -> None:
    raised, missing = Answer("raised", b"ValueError: no", 0.1), Answer("missing", b"", 0.0)
    assert findings(
        case("assert H[0] == 4", raised),
        case("assert H[0] == 4", missing),
        case("assert H[0] == 4 or H[1]", value(4), raised),
        case("assert H[0] == 4 or H[1]", value(5), raised),
        case("assert H[0] == 4", Answer("value", b'["zz"]', 0.1)),
    ) == [
        Finding("raised", "f(0): ValueError: no"),
        Finding("missing", "f(0)"),
        Finding("passed", ""),
        Finding("raised", "f(1): ValueError: no"),
        Finding("failed", "the program's answer cannot be read: an unknown tag, or a tag with the wrong "
                "number of parts"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("remainder", "answer"),
    [
        ("assert 2 ** H[0] == 4", value(10**12)),
        ("assert sum(range(H[0])) == 4", value(10**15)),
        ("assert len('x' * H[0]) == 4", value(10**9)),
        ("assert list(range(H[0])) == 4", value(10**9)),
        ("assert math.factorial(H[0]) == 4", value(10**6)),
        ("assert re.match(H[0], 'a' * 40)", value("(a+)+$b")),
        ("assert H[0] == set()", Answer("value", COLLIDING, 0.1)),
    ],
)
def test_a_comparison_that_explodes_is_a_limit_and_the_next_is_judged(remainder: str, answer: Answer) -> None:
    async def work(link: JudgeLink) -> tuple[list[Finding], ...]:
        hostile = link.evaluate(
            [case("assert H[0] == 1", value(1)), case(remainder, answer), case("assert True")]
        )
        return tuple(await asyncio.gather(hostile, *[link.evaluate([case("assert True")]) for _ in range(5)]))

    hostile, *honest = with_link(work)
    assert [one.outcome for one in hostile][:2] == ["passed", "limit"]
    assert hostile[2].outcome in ("passed", "skipped")
    assert honest == [[Finding("passed", "")]] * 5


def test_nothing_but_computing_is_allowed_in_the_worker() -> None:
    """The text here is what `split` would refuse; even so, the filter holds."""
    classes = "().__class__.__base__.__subclasses__()"
    reach = f"[c for c in {classes} if c.__name__ == '_wrap_close'][0].__init__.__globals__"
    for attempt in ("['open']('/etc/passwd', 0)", "['fork']()", "['kill'](1, 0)", "['getppid']()"):
        (found,) = findings(case(f"assert {reach}{attempt} is None"))
        assert found.outcome == "failed", found
        assert "PermissionError" in found.message or "is false" in found.message, found


def test_a_test_that_prints_says_nothing_in_the_workers_name() -> None:
    prints = case("assert re.compile(H[0], 128)", value("ab" * 2000))
    assert findings(prints, prints, case("assert True")) == [Finding("passed", "")] * 3


def test_nothing_that_is_offered_can_be_changed_for_the_next_evaluation() -> None:
    """Every object a test can name, and what its plain attributes lead to."""
    waiting = [(name, one, 0) for name, public in MODULES.items() for one in public.values()]
    seen, found = set[int](), []
    while waiting:
        name, one, depth = waiting.pop()
        if id(one) in seen or depth > 3:
            continue
        seen.add(id(one))
        if isinstance(one, dict | list | set | bytearray | decimal.Context):
            found.append((name, one))
        for attribute in filter(is_plain_attribute, dir(one)):
            waiting.append((f"{name}.{attribute}", getattr(one, attribute, None), depth + 1))
    assert found == []


def test_the_worker_is_replaced_when_it_is_killed_and_nobody_notices() -> None:
    async def work(link: JudgeLink) -> int:
        for _ in range(3):
            assert await link.evaluate([case("assert H[0] == 4", value(4))]) == [Finding("passed", "")]
            assert link.pid is not None
            os.kill(link.pid, signal.SIGKILL)
        return link.starts

    assert with_link(work) == 3


def test_a_worker_that_answers_nothing_is_replaced() -> None:
    async def work() -> tuple[list[Finding], int]:
        link = JudgeLink(wall_s=1.0)
        try:
            await link.evaluate([case("assert True")])
            assert link.pid is not None
            os.kill(link.pid, signal.SIGSTOP)
            return await link.evaluate([case("assert H[0] == 4", value(4))]), link.starts
        finally:
            await link.aclose()

    assert asyncio.run(work()) == ([Finding("passed", "")], 2)


def test_a_worker_that_cannot_be_kept_alive_is_no_verdict() -> None:
    async def work() -> None:
        link = JudgeLink(wall_s=0.0)  # every worker is overdue at once
        try:
            with pytest.raises(Broken, match="died twice"):
                await link.evaluate([case("assert sum(range(10**7)) == 4")])
        finally:
            await link.aclose()

    asyncio.run(work())


def test_closing_leaves_no_process() -> None:
    async def work(link: JudgeLink) -> int:
        await link.evaluate([case("assert True")])
        assert link.pid is not None
        return link.pid

    pid = with_link(work)
    assert not Path(f"/proc/{pid}").exists()


def test_findings_come_back_in_order_for_many_verdicts_at_once() -> None:
    async def work(link: JudgeLink) -> list[list[Finding]]:
        cases = [[case("assert H[0] == 4", value(4 if i % 3 else i + 10))] * (i % 4 + 1) for i in range(300)]
        return list(await asyncio.gather(*map(link.evaluate, cases)))

    for i, found in enumerate(with_link(work)):
        outcome = "passed" if i % 3 else "failed"
        assert [one.outcome for one in found] == [outcome] * (i % 4 + 1)
        assert i % 3 or found[0].message.endswith(f"got {i + 10}")


def test_text_for_a_reader_is_short_and_without_tricks() -> None:
    assert printable("a" * 500) == "a" * 197 + "..."
    assert printable("é \u202e \x00 \ud800") == "é \\u202e \\x00 \\ud800"
