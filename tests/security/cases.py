"""One attack on the sandbox: a program, the tests it is given, and the ends that are right for it."""

from __future__ import annotations

from typing import Any, NamedTuple

SQUARE = ("assert f(2) == 4", "assert f(3) == 9")
LIMITS: dict[str, Any] = {
    "cpu_s": 1, "wall_s": 5, "memory_mb": 128, "output_kb": 64, "file_mb": 1, "processes": 8,
}  # fmt: skip
# What an attack may end as without having earned anything.
LOST = frozenset(("failed", "raised", "timeout", "memory", "output_limit", "forbidden"))
# What ends otherwise than by time has plenty of it: gVisor's CPU clock runs on while others are at work.
UNHURRIED = {"cpu_s": 10, "wall_s": 15}
HONEST = "import math\ndef f(x):\n    return int(math.pow(x, 2))"


class Case(NamedTuple):
    """An attack. `row` is its number in the catalogue; `right` the outcomes of the verdict that are right."""

    row: int
    name: str
    program: str
    right: frozenset[str] = LOST
    tests: tuple[str, ...] = SQUARE
    limits: dict[str, Any] = LIMITS
    setup: str = ""

    @property
    def job(self) -> dict[str, Any]:
        """The attack as the sandbox is asked to judge it."""
        time = {} if "timeout" in self.right else UNHURRIED
        limits = {**self.limits, **time}
        return {"program": self.program, "tests": self.tests, "limits": limits, "setup": self.setup}

    @property
    def id(self) -> str:
        """A name for reports."""
        return f"{self.row:03d} {self.name}"


def ends(*outcomes: str) -> frozenset[str]:
    """The right outcomes of a case."""
    return frozenset(outcomes)


PASSED, FAILED, RAISED, TIMEOUT = ends("passed"), ends("failed"), ends("raised"), ends("timeout")
