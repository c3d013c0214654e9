"""Say of a task's tests how they would be judged, before any program is there."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox_service.judge_worker import printable
from sandbox_service.rpc_plan import Remote
from sandbox_service.split import Refusal, Split
from shared.wire import Assurance
from shared.wire_plan import PlannedJob, PlannedTest

_WEAKEST_FIRST: tuple[Assurance, ...] = ("in_sandbox", "rpc", "value")
_REASON_MAX = 400
ASK_NOTHING = "no test calls the program"


def ask_nothing(tests: Sequence[Split | Remote | Refusal]) -> bool:
    """Return whether none of a job's tests calls the program: it would pass whatever the program is."""
    return all(isinstance(test, Split) and not test.calls for test in tests)


def planned(tests: Sequence[Split | Remote | Refusal]) -> PlannedJob:
    """Return the level each test reaches, and the weakest of them; none where one cannot be judged at all."""
    if ask_nothing(tests):
        nothing = PlannedTest(assurance=None, line=1, reason=ASK_NOTHING)
        return PlannedJob(assurance=None, tests=[nothing] * len(tests))
    found = [_test(test) for test in tests]
    levels = [one.assurance for one in found]
    weakest = None if None in levels else next(level for level in _WEAKEST_FIRST if level in levels)
    return PlannedJob(assurance=weakest, tests=found)


def _test(test: Split | Remote | Refusal) -> PlannedTest:
    match test:
        case Split():
            return PlannedTest(assurance="value")
        case Remote(line=line, reason=reason):
            return PlannedTest(assurance="rpc", line=line, reason=printable(reason, _REASON_MAX))
    reason = printable(test.reason, _REASON_MAX)
    return PlannedTest(assurance=None if test.broken else "in_sandbox", line=test.line, reason=reason)
