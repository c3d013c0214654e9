"""Messages that need no training: what a student must beat, and what shows that its messages carry anything.

Each goes through the same decoder and sandbox as the student's. Holds no model: a counter of tokens and a
way to cut a text at a number of tokens are passed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trainer.measure.record import Kind, Message, Sender
from trainer.tasks.task import Task

Count = Callable[[str], int]
Cut = Callable[[str, int], str]


class Minified(NamedTuple):
    """A minified program, or the program itself and why the minifier refused it."""

    code: str
    refusal: str = ""


def minified(reference: str) -> Minified:
    """Return the reference as python-minifier writes it: locals renamed, docstrings out, globals kept.

    reference  Python source
    returns    the shorter source; the reference itself, with the reason, where the minifier fails
    """
    import python_minifier

    try:
        code = python_minifier.minify(
            reference, rename_locals=True, rename_globals=False, remove_literal_statements=True
        )
    except (SyntaxError, ValueError, RecursionError, python_minifier.UnstableMinification) as refusal:
        return Minified(reference, f"{type(refusal).__name__}: {refusal}")
    return Minified(code)


def described(task: Task) -> str:
    """Return the task as a person would hand it on: its text, then the signature."""
    return f"{task.text.strip()}\n{task.signature.strip()}"


def baselines(tasks: Sequence[Task], count: Count, cut: Cut, budget_tokens: int) -> list[Sender]:
    """Return every sender that knows the task and needs no training.

    count          tokens of a text under the student's tokenizer
    cut            a text's first so many tokens
    budget_tokens  the student's mean message, rounded: what the truncated ones may have
    """
    small, notes = _minified_all(tasks)
    texts = [described(task) for task in tasks]
    references = [task.reference for task in tasks]
    first = [f"the first {budget_tokens} tokens, the student's mean"]
    shorter = "" if not notes else f"{len(notes)} of {len(tasks)} fell back on the reference"
    return [
        _baseline("task text", texts, count),
        _baseline("reference", references, count),
        _baseline("minified reference", small, count, [shorter, *notes] if notes else []),
        _baseline("task text, truncated", [cut(t, budget_tokens) for t in texts], count, first),
        _baseline("reference, truncated", [cut(r, budget_tokens) for r in references], count, first),
        _baseline("signature only", [task.signature for task in tasks], count, kind="control"),
        _baseline("empty message", ["" for _ in tasks], count, kind="control"),
    ]


def shuffled(messages: Sequence[Message], seed: int = 0) -> Sender:
    """Return the student's own messages, each sent for another task: passes are then the decoder's guesses.

    raises  nothing: with a single task there is no other one, and its note says so
    """
    order = list(range(len(messages)))
    random.Random(seed).shuffle(order)
    sent = list(messages)
    for place, following in zip(order, order[1:] + order[:1], strict=True):
        sent[place] = messages[following]
    notes = ["one task only: nothing to shuffle"] if len(messages) < 2 else []
    return Sender("student, shuffled", "control", sent, notes)


def _baseline(
    name: str, texts: Sequence[str], count: Count, notes: list[str] | None = None, kind: Kind = "baseline"
) -> Sender:
    return Sender(name, kind, [Message(text, count(text)) for text in texts], notes or [])


def _minified_all(tasks: Sequence[Task]) -> tuple[list[str], list[str]]:
    """Return each minified reference, and a line for each that the minifier refused."""
    done = [minified(task.reference) for task in tasks]
    notes = [f"{t.task_id}: {m.refusal}" for t, m in zip(tasks, done, strict=True) if m.refusal]
    return [m.code for m in done], notes
