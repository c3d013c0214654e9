"""The judge: from a job to a plan, from what a run left to a verdict."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sandbox_service.inside.codec import encode
from sandbox_service.judge import Judge
from sandbox_service.run import Answer, Ended, How
from shared.errors import InvalidRequest
from shared.wire import Assurance, JudgeJob, Verdict

MISSING = Answer("missing", b"", 0.0)


def value(one: Any) -> Answer:
    return Answer("value", encode(one), 2.0)


def raised(text: str) -> Answer:
    return Answer("raised", text.encode(), 2.0)


def judged(
    tests: list[str], *answers: Answer, how: How = "answered", detail: str = "", least: Assurance = "rpc"
) -> Verdict:
    """Plan the tests and judge these answers."""

    async def main() -> Verdict:
        judge = Judge(cpu_s=0.3)
        try:
            plan = judge.plan(JudgeJob(program="", tests=tests), least)
            ended = Ended(how, detail, answers, 5.0, 6.0, 7.0, "out", "err")
            return await judge.verdict(plan, ended, "none")
        finally:
            await judge.aclose()

    return asyncio.run(main())


TWO = ["assert f(1) == 1", "assert f(2) == 2"]


def test_a_verdict_is_passed_when_every_test_is() -> None:
    verdict = judged(TWO, value(1), value(2))
    assert verdict.passed
    assert [test.outcome for test in verdict.tests] == ["passed", "passed"]
    assert (verdict.assurance, verdict.jail, verdict.usage.cpu_ms, verdict.stdout_tail) == (
        "value",
        "none",
        5,
        "out",
    )


def test_a_wrong_value_fails_its_test_only() -> None:
    verdict = judged(TWO, value(1), value(3))
    assert [test.outcome for test in verdict.tests] == ["passed", "failed"]
    assert verdict.outcome == "failed"
    assert verdict.tests[1].message == "f(2): expected 2, got 3"


def test_an_exception_is_raised_with_its_message() -> None:
    verdict = judged(TWO, raised("ValueError: no\x1b[0m"), value(2))
    assert verdict.outcome == "raised"
    assert verdict.tests[0].message == r"f(1): ValueError: no\x1b[0m"
    assert verdict.tests[0].wall_ms == 2.0


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ("load_error", "raised"), ("exited", "failed"), ("crashed", "failed"), ("timeout", "timeout"),
        ("memory", "memory"), ("output_limit", "output_limit"), ("process_limit", "forbidden"),
    ],
)  # fmt: skip
def test_a_run_that_ends_early_names_its_cause_and_keeps_what_passed(how: How, outcome: str) -> None:
    verdict = judged(TWO, value(1), MISSING, how=how, detail="because")
    assert [test.outcome for test in verdict.tests] == ["passed", outcome]
    assert verdict.outcome == outcome
    assert verdict.tests[1].message.endswith("because")


def test_a_run_that_did_not_end_well_is_not_passed_whatever_it_answered() -> None:
    assert judged(TWO, value(1), value(2), how="output_limit").outcome == "output_limit"
    assert judged(TWO, value(1), value(2), how="exited").outcome == "failed"


def test_memory_keeps_its_name_as_an_exception() -> None:
    assert judged(TWO, raised("MemoryError: "), value(2)).outcome == "memory"


def test_a_comparison_over_the_limit_fails_with_that_message() -> None:
    verdict = judged(["assert 2 ** f(1) == 4"], value(10**12))
    assert verdict.outcome == "failed"
    assert verdict.tests[0].message.startswith("the comparison exceeded the judge's limit")


def test_a_test_without_a_call_is_the_judges_and_a_job_without_one_is_refused() -> None:
    assert judged(["assert True", *TWO], value(1), value(2)).passed
    assert judged(["assert len([1]) == 2", *TWO], value(1), value(2)).outcome == "failed"
    with pytest.raises(InvalidRequest, match="no test calls the program"):
        judged(["assert True", "assert 1 + 1 == 2"])


def test_what_cannot_be_taken_apart_is_refused_with_index_line_reason_and_way_out() -> None:
    check = "x = 1\nfor line in open('x'):\n    assert f(line) == line"
    with pytest.raises(InvalidRequest) as caught:
        judged(["assert f(1) == 1", check, "assert np.allclose(f(1), 1)"])
    assert "tests[1], line 2: a statement of kind For" in caught.value.detail
    assert "nor can it run in the judge: line 2: `open` is not there" in caught.value.detail
    assert "tests[2], line 1: the module `np`" in caught.value.detail
    assert "in_sandbox" in caught.value.hint
    assert caught.value.field == "tests[1]"


@pytest.mark.parametrize("least", ["value", "rpc", "in_sandbox"])
def test_a_test_that_is_not_python_is_refused_at_every_level(least: Assurance) -> None:
    with pytest.raises(InvalidRequest, match="not Python"):
        judged(["assert f("], least=least)


def test_a_test_runs_beside_the_program_only_if_that_was_asked_for_and_the_verdict_says_so() -> None:
    tests = ["import os\nassert f(os.sep) == '/'", "assert f(2) == 2"]
    passed = judged(tests, value(2), value(True), least="in_sandbox")
    assert passed.passed
    assert passed.assurance == "in_sandbox"
    assert [test.assurance for test in passed.tests] == ["in_sandbox", "value"]
    assert judged(tests, value(2), raised("AssertionError: "), least="in_sandbox").outcome == "failed"
    assert judged(tests, value(2), raised("ValueError: "), least="in_sandbox").outcome == "raised"
    assert judged(tests, value(2), MISSING, how="exited", least="in_sandbox").outcome == "failed"
    assert judged(tests, value(3), value(True), least="in_sandbox").outcome == "failed"


def test_a_plan_does_not_depend_on_the_program_and_carries_no_expectation() -> None:
    judge = Judge()
    tests = ["assert sorted(f(1)) == [12321]", "assert f(2) == 45654"]
    plans = [
        judge.plan(JudgeJob(program=p, tests=tests)) for p in ("", "def sorted(x): return [12321]", "def (")
    ]
    assert len({plan.tests for plan in plans}) == 1
    assert plans[0].run.calls == ("f(1)", "f(2)")
    assert not any("12321" in call or "45654" in call for call in plans[0].run.calls)
    assert plans[1].tests is plans[0].tests


def test_a_program_that_redefines_what_the_test_uses_changes_nothing() -> None:
    """`sorted`, `set`, `abs` are the judge's: the program is only asked for `f(1)`."""
    for test in ("assert sorted(f(1)) == [1]", "assert set(f(1)) == {1}", "assert abs(f(1)[0] - 1) < 1"):
        assert judged([test], value([2])).outcome == "failed"
