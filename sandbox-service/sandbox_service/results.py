"""What came of each test, as the verdict says it: from findings, answers, and how the run ended."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox_service.judge_worker import Finding, printable
from sandbox_service.rpc_plan import Remote
from sandbox_service.run import Answer, Ended, Run
from sandbox_service.split import Refusal, Split
from shared.errors import InvalidRequest
from shared.wire import Outcome, TestResult

OUTCOMES: dict[str, Outcome] = {
    "answered": "failed",
    "load_error": "raised",
    "exited": "failed",
    "crashed": "failed",
    "timeout": "timeout",
    "memory": "memory",
    "output_limit": "output_limit",
    "process_limit": "forbidden",
}
_SAID = {
    "answered": "no answer",
    "load_error": "the program did not load",
    "exited": "the program exited before it answered",
    "crashed": "the program crashed before it answered",
    "timeout": "the program ran out of time",
    "memory": "the program ran out of memory",
    "output_limit": "the program printed too much",
    "process_limit": "the program started too many processes",
}


Test = Split | Remote | Refusal


def shares(tests: Sequence[Test], run: Run, answers: Sequence[Answer]) -> list[tuple[Answer, ...]]:
    """Give each test its answers: the calls' come first, then one for each test that ran beside."""
    call, beside = 0, len(run.calls)
    found: list[tuple[Answer, ...]] = []
    for test in tests:
        if isinstance(test, Split):
            found.append(tuple(answers[call : call + len(test.calls)]))
            call += len(test.calls)
        elif isinstance(test, Remote):
            found.append(())
        else:
            found.append((answers[beside],))
            beside += 1
    return found


def split(finding: Finding, share: Sequence[Answer], ended: Ended) -> TestResult:
    """Judge a test that was taken apart, by its own answers."""
    wall_ms = sum(answer.wall_ms for answer in share)
    match finding.outcome:
        case "passed":
            return TestResult(outcome="passed", wall_ms=wall_ms)
        case "missing":
            return TestResult(outcome=OUTCOMES[ended.how], message=said(ended), wall_ms=wall_ms)
        case "raised":
            return TestResult(outcome=_raised(share), message=finding.message, wall_ms=wall_ms)
        case "limit":
            message = f"the comparison exceeded the judge's limit: {finding.message}"
            return TestResult(outcome="failed", message=message, wall_ms=wall_ms)
        case _:
            return TestResult(outcome="failed", message=finding.message, wall_ms=wall_ms)


def remote(number: int, finding: Finding, wall_ms: float, ended: Ended) -> TestResult:
    """Judge a test that ran in the judge."""
    outcomes: dict[str, Outcome] = {"passed": "passed", "raised": "raised", "memory": "memory"}
    outcome, message = outcomes.get(finding.outcome, "failed"), finding.message
    match finding.outcome:
        case "unsupported":
            raise InvalidRequest(
                f"tests[{number}]: {finding.message}",
                field=f"tests[{number}]",
                hint='pass plain values, or ask for min_assurance "in_sandbox", which can be forged',
            )
        case "missing":
            outcome, message = OUTCOMES[ended.how], said(ended)
        case "limit":
            message = f"the test exceeded its limit: {finding.message}"
    return TestResult(outcome=outcome, message=message, wall_ms=wall_ms, assurance="rpc")


def beside(answer: Answer, ended: Ended) -> TestResult:
    """Judge a test that ran beside the program: only a value says that it came to its end."""
    match answer.status:
        case "value":
            outcome, message = "passed", ""
        case "raised":
            text = answer.payload.decode("utf-8", "replace")
            outcome, message = _raised([answer]), printable(text)
            outcome = "failed" if text.partition(":")[0] == "AssertionError" else outcome
        case _:
            outcome, message = OUTCOMES[ended.how], said(ended)
    return TestResult(outcome=outcome, message=message, wall_ms=answer.wall_ms, assurance="in_sandbox")


def _raised(share: Sequence[Answer]) -> Outcome:
    """An exception is `raised`; running out of memory keeps its name."""
    first = next((answer for answer in share if answer.status == "raised"), None)
    return "memory" if first is not None and first.payload.startswith(b"MemoryError") else "raised"


def said(ended: Ended) -> str:
    return printable(f"{_SAID[ended.how]}: {ended.detail}" if ended.detail else _SAID[ended.how])
