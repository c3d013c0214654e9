"""What crosses HTTP about tests alone: how they would be judged. See wire.py."""

from __future__ import annotations

from pydantic import Field

from shared.wire import MAX_BATCH, Assurance, Text, Wire


class PlanJob(Wire):
    """The tests of one task, without any program."""

    tests: list[Text] = Field(min_length=1, max_length=1000)
    setup: Text = ""


class PlanRequest(Wire):
    """POST /v1/plan: how would these tests be judged? Nothing is run."""

    jobs: list[PlanJob] = Field(min_length=1, max_length=MAX_BATCH)


class PlannedTest(Wire):
    """How one test would be judged.

    assurance  the highest level it reaches; null for a test that no level can judge
    line       line of the test, from 1, where it cannot be taken apart; 0 at `value`
    reason     why it is not at `value`
    """

    __test__ = False

    assurance: Assurance | None
    line: int = 0
    reason: str = ""


class PlannedJob(Wire):
    """tests [N], in order; `assurance` is the weakest of them, null if any cannot be judged."""

    assurance: Assurance | None
    tests: list[PlannedTest]


class PlanReply(Wire):
    """jobs [N], in the order of the request."""

    jobs: list[PlannedJob]
