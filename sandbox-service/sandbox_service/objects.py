"""Tests that failed at `value` over an object that has none: asked again, in the judge, at `rpc`.

A program may answer with an object of its own: something to iterate over, a point that equals another one, a
generator without an end. No value stands for it outside, so the test fails there, whatever the test means. In
the judge, with the object left where it is, it may hold; the program then decides what its own objects say of
each other, and nothing between them and a plain value. So the test's level is `rpc`, and where the client
asks for `value` the failure stands. A test that does not pass so keeps the finding of the first time.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandbox_service.judge_worker import Finding
from sandbox_service.rpc_plan import NotRemote, Remote, remote
from sandbox_service.run import Answer, Ended
from sandbox_service.split import Refusal, Split
from shared.wire import TestResult, Usage, Verdict

_OPAQUE = b'["x",'  # within a text of the codec each quote is escaped


def to_ask_again(
    tests: Sequence[Split | Remote | Refusal],
    shares: Sequence[Sequence[Answer]],
    results: Sequence[TestResult],
    setup: str,
) -> dict[int, Remote]:
    """Return the tests to ask again, by their number, as far as they can run in the judge."""
    found = {}
    for number, (test, share, result) in enumerate(zip(tests, shares, results, strict=True)):
        if isinstance(test, Split) and result.outcome == "failed" and any(map(_has_opaque, share)):
            try:
                found[number] = remote(test.source, setup)
            except NotRemote:
                continue
    return found


def _has_opaque(answer: Answer) -> bool:
    return answer.status == "value" and _OPAQUE in answer.payload


def amended(
    verdict: Verdict, numbers: Sequence[int], found: Sequence[tuple[Finding, float]], ended: Ended
) -> Verdict:
    """Return the verdict with those tests passed that did the second time.

    found   what the tests with these `numbers` came to, in order, with their milliseconds; `ended` their run
    """
    passed = {
        number: TestResult(outcome="passed", wall_ms=wall_ms, assurance="rpc")
        for number, (finding, wall_ms) in zip(numbers, found, strict=False)
        if finding.outcome == "passed" and ended.how == "answered"
    }
    if not passed:
        return verdict
    tests = [passed.get(number, test) for number, test in enumerate(verdict.tests)]
    first, memory = verdict.usage, [verdict.usage.memory_mb, ended.memory_mb]
    return verdict.model_copy(
        update={
            "tests": tests,
            "outcome": next((test.outcome for test in tests if test.outcome != "passed"), "passed"),
            "assurance": "in_sandbox" if verdict.assurance == "in_sandbox" else "rpc",
            "usage": Usage(
                cpu_ms=first.cpu_ms + ended.cpu_ms,
                wall_ms=first.wall_ms + ended.wall_ms,
                memory_mb=max((one for one in memory if one is not None), default=None),
            ),
        }
    )
