"""Greedy held-out evaluation while a run goes on, and the choice of the checkpoint that is kept.

The validation tasks choose; the test tasks are looked at before the first step and after the last one only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from shared.clients import run
from trainer.channels.text.exchange import Exchange, patiently
from trainer.checkpoints import put_back, weights_damage
from trainer.config_text import TextConfig
from trainer.measure.evaluate import evaluate_messages
from trainer.measure.record import Message, Record
from trainer.measure.students import Student, encode_tasks
from trainer.runs import Run, aside
from trainer.tasks.task import Task

T = TypeVar("T")

BATCH = 64


class Evaluation(NamedTuple):
    """What a student is worth on one split, greedy.

    tokens            mean message tokens, failed ones included
    reference_tokens  mean tokens of the tasks' reference code
    """

    step: int
    split: str
    n: int
    pass_rate: float
    tokens: float
    reference_tokens: float


class HeldOut(NamedTuple):
    """An evaluation and the records it was made from."""

    evaluation: Evaluation
    records: list[Record]


def evaluate(
    student: Student, tasks: Sequence[Task], config: TextConfig, *, step: int, split: str,
    stopping: Callable[[], bool] = lambda: False,
) -> HeldOut:  # fmt: skip
    """Have the student write one greedy message per task and send them through both services.

    student   in any mode; it is in evaluation mode while it writes
    stopping  whether an outage is no longer worth waiting for
    raises    NoAnswer after max_outages tries: an evaluation is whole or it is none
    """
    training = student.model.training
    student.model.eval()
    try:
        messages = encode_tasks(student, tasks, max_new_tokens=config.max_completion_length, batch_size=BATCH)
    finally:
        student.model.train(training)
    records = run(patiently(lambda: _records(tasks, messages, config), config, stopping))
    reference = fmean(student.count(task.reference) for task in tasks)
    passed = fmean(record.passed for record in records)
    tokens = fmean(record.tokens for record in records)
    return HeldOut(Evaluation(step, split, len(tasks), passed, tokens, reference), records)


async def _records(tasks: Sequence[Task], messages: Sequence[Message], config: TextConfig) -> list[Record]:
    greedy = config.model_copy(update={"generator_temperature": 0.0})
    async with Exchange(greedy) as exchange:
        return await evaluate_messages(tasks, messages, exchange)


def read_best(run: Run, kind: type[T]) -> T | None:
    """Return the evaluation that chose a run's best weights; None if there are none yet.

    kind  what best.json holds

    What is damaged is put aside, and said: the next evaluation then chooses anew.
    """
    put_back(run.best)
    note = run.best / "best.json"
    if not run.best.is_dir():
        return None
    try:
        found = TypeAdapter(kind).validate_json(note.read_bytes())
        reason = weights_damage(run.best)
    except (OSError, ValidationError) as error:
        reason = f"{note}: cannot be read ({str(error).splitlines()[0]})"
    if reason:
        print(f"{reason}; the best weights are chosen anew, it is now {aside(run.best)}", file=sys.stderr)
        return None
    return found


def better(new: Evaluation, old: Evaluation | None, target: float) -> bool:
    """Whether `new` is the one to keep: among those that reach the target the shortest, else the surest.

    target  pass rate to reach
    """
    if old is None:
        return True
    reaches, reached = new.pass_rate >= target, old.pass_rate >= target
    if reaches and reached:
        return new.tokens < old.tokens
    if reaches != reached:
        return reaches
    return (new.pass_rate, -new.tokens) > (old.pass_rate, -old.tokens)


def kept(best: Evaluation, target: float) -> str:
    """Say which step's weights are kept, and whether they are what the run was after."""
    figures = f"pass {best.pass_rate:.3f}  tokens {best.tokens:.1f}"
    if best.pass_rate >= target:
        return f"kept: step {best.step}, the fewest tokens at a pass rate of {target} (validation: {figures})"
    # The weights before the first step are no candidate, whatever they pass.
    why = f"the surest of those after step 0: none of them reached a pass rate of {target}"
    return f"kept: step {best.step}, {why} (validation: {figures})"


def summary_of(
    trained: Evaluation, untrained: Evaluation, config: TextConfig, seconds: dict[str, float]
) -> dict[str, Any]:
    """Return what summary.json holds.

    trained, untrained  of the same test tasks
    seconds             where the time went
    """
    return {
        "channel": "text",
        "seed": config.seed,
        "step": trained.step,
        "heldout": {
            "n": trained.n,
            "pass_rate": trained.pass_rate,
            "tokens_per_message": trained.tokens,
            "compression_vs_untrained": untrained.tokens / trained.tokens if trained.tokens else None,
            "compression_vs_reference": trained.reference_tokens / trained.tokens if trained.tokens else None,
        },
        "untrained": {"pass_rate": untrained.pass_rate, "tokens_per_message": untrained.tokens},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
