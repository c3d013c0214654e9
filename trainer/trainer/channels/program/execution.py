"""Programs to the lists they make, by the sandbox and nothing else: in batches, none of them twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from shared.clients import SandboxClient
from shared.wire import MAX_TEXT, ExecuteJob, Limits

MAX_KNOWN = 50_000
# A list of numbers is made in microseconds; what takes longer is no short program.
LIMITS = Limits(cpu_s=2.0, wall_s=10.0, memory_mb=128, output_kb=64, processes=4)
# What depends on the machine's luck is not kept.
_PASSING = ("timeout", "memory", "forbidden")


class Output(NamedTuple):
    """What a program came to.

    outcome  the sandbox's: passed if `output` has a value; or too_long, unsent
    value    `output` where it is a list of whole numbers, else None
    """

    outcome: str
    value: tuple[int, ...] | None


class Executor:
    """Executes programs with the sequence DSL in scope.

    asked     programs asked for
    executed  programs that went to the sandbox
    """

    def __init__(self, client: SandboxClient, limits: Limits = LIMITS) -> None:
        self.client, self.limits = client, limits
        self.asked = self.executed = 0
        self._known: OrderedDict[str, Output] = OrderedDict()

    async def run(self, programs: Sequence[str]) -> list[Output]:
        """Return the outputs [N] of programs [N]; one request for all that are new (up to the wire's limit).

        raises  NoAnswer, RequestRefused as the client does: without an answer there is no output
        """
        self.asked += len(programs)
        answers: dict[str, Output] = {p: self._known[p] for p in programs if p in self._known}
        new = list(dict.fromkeys(p for p in programs if p not in answers))
        answers |= {p: Output("too_long", None) for p in new if not sendable(p)}
        new = [p for p in new if p not in answers]
        if new:
            self.executed += len(new)
            jobs = [ExecuteJob(program=p, limits=self.limits, preamble="sequence_dsl") for p in new]
            for program, done in zip(new, await self.client.execute(jobs), strict=True):
                answers[program] = Output(done.outcome, numbers(done.value))
                if done.outcome not in _PASSING:
                    self._known[program] = answers[program]
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return [answers[program] for program in programs]


def sendable(program: str) -> bool:
    """Whether a text may be sent at all: not over the wire's limit, and no half of a surrogate pair in it."""
    return len(program) <= MAX_TEXT and not any("\ud800" <= c <= "\udfff" for c in program)


def numbers(value: Any) -> tuple[int, ...] | None:
    """Return the list of whole numbers that the sandbox's typed JSON stands for, else None."""
    match value:
        case ["l", list(items)] if all(isinstance(i, list) and i[:1] == ["i"] for i in items):
            return tuple(int(item[1], 16) for item in items)
        case _:
            return None
