"""What every token of a message is there for: change one thing, decode and judge again, count what breaks.

The changes come from `controls_messages`; here they are sent through the run's own decoder and sandbox.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.channels.text.exchange import Exchange
from trainer.measure.controls_messages import Change
from trainer.measure.statistics import Interval, bootstrap_ratio, mean, wilson
from trainer.pace import Pace
from trainer.tasks.task import Task

# Pairs of one request: large enough to fill batches, small enough to end within a deadline.
CHUNK = 512


class Sent(NamedTuple):
    """A message for a task, what it became, and whether that passed every test."""

    task: int
    text: str
    program: str
    passed: bool


class Effect(NamedTuple):
    """A change and what came of it, the message having passed without it."""

    change: Change
    program: str
    passed: bool


@dataclass(frozen=True)
class Broken:
    """How often a kind of change broke a message that had passed.

    n       changes
    rate    share that failed; 95 % over tasks, whose changes are no independent cases
    """

    kind: str
    n: int
    rate: Interval


@dataclass(frozen=True)
class Importance:
    """What one token of the language is worth: how often the message fails without it, or with another.

    deleted, replaced  share of cases that failed, Wilson 95 %; None where it never stood
    """

    symbol: int
    text: str
    n: int
    deleted: Interval | None
    replaced: Interval | None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {k: v._asdict() if isinstance(v, Interval) else v for k, v in self.__dict__.items()}


async def send(
    tasks: Sequence[Task], pairs: Sequence[tuple[int, str]], exchange: Exchange, *, what: str = ""
) -> list[Sent]:
    """Send messages for tasks, in chunks, telling how far it is.

    pairs    [N] place of a task, message
    returns  [N] what came of each
    raises   RoomError if a service gives no answer
    """
    found: list[Sent] = []
    pace = Pace(what, len(pairs))
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        answer = await exchange.outcomes([tasks[i] for i, _ in part], [text for _, text in part])
        found += [
            Sent(task, text, program, finding.outcome == "passed")
            for (task, text), program, finding in zip(part, answer.programs, answer.findings, strict=True)
        ]
        if what and len(pairs) > CHUNK:
            pace.add(len(part))
    return found


async def effects(tasks: Sequence[Task], changed: Sequence[Change], exchange: Exchange) -> list[Effect]:
    """Send changed messages and return what came of each, in their order. Raises RoomError."""
    sent = await send(tasks, [(c.task, c.text) for c in changed], exchange, what="changed messages")
    return [Effect(change, s.program, s.passed) for change, s in zip(changed, sent, strict=True)]


def broken(found: Sequence[Effect]) -> list[Broken]:
    """Return for each kind of change how often it broke the message, the kinds in the order they came."""
    rates = []
    for kind in dict.fromkeys(e.change.kind for e in found):
        by_task: dict[int, list[bool]] = defaultdict(list)
        for effect in found:
            if effect.change.kind == kind:
                by_task[effect.change.task].append(not effect.passed)
        fails, sizes = [sum(v) for v in by_task.values()], [len(v) for v in by_task.values()]
        rates.append(Broken(kind, sum(sizes), bootstrap_ratio(fails, sizes)))
    return rates


def importance(found: Sequence[Effect], text_of: Callable[[int], str]) -> list[Importance]:
    """Return what each token is worth, the most frequent first.

    text_of  what a token id looks like
    """
    deleted: dict[int, list[bool]] = defaultdict(list)
    replaced: dict[int, list[bool]] = defaultdict(list)
    for effect in found:
        table = {"deletion": deleted, "substitution": replaced}.get(effect.change.kind)
        if table is not None:
            table[effect.change.symbol].append(not effect.passed)
    rows = [
        Importance(symbol, text_of(symbol), len(fails), _share(fails), _share(replaced.get(symbol, [])))
        for symbol, fails in deleted.items()
    ]
    return sorted(rows, key=lambda row: (-row.n, row.symbol))


def _share(fails: Sequence[bool]) -> Interval | None:
    return wilson(sum(fails), len(fails)) if fails else None


def needed(found: Sequence[Effect]) -> float:
    """Return the mean share of a message's tokens that it fails without; nan without a deletion.

    1 is a code with no token to spare, 0 one in which each single token can be guessed from the others.
    """
    by_task: dict[int, list[bool]] = defaultdict(list)
    for effect in found:
        if effect.change.kind == "deletion":
            by_task[effect.change.task].append(not effect.passed)
    return mean([mean([float(f) for f in fails]) for fails in by_task.values()])
