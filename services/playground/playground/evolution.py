"""One task through the steps of a run: its message, the program it became, the verdict."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from playground.folders import Folders, Remembered
from playground.render import dropped, evenly
from playground.tails import Row, TaskIndex

STEPS, TASKS = 12, 500
SOURCES = {
    "heldout.jsonl": "greedy messages of the held-out evaluations",
    "episodes.jsonl": "sampled messages of the training steps, the first of each",
}


@dataclass(frozen=True)
class Stage:
    """One step of a task's history.

    shown   the message, what the next stage drops marked
    repeat  whether its program is the one of the stage before
    """

    row: Row
    shown: Markup
    repeat: bool


@dataclass(frozen=True)
class History:
    """One task's history, and the tasks that have one.

    stages     from the first step to the last, at most STEPS of `of` unless all were asked for
    tasks      names of the tasks, those seen at most steps first
    missing    whether another task was asked for, which the run has not
    before     the task in front of this one in that order, after the one behind it; empty for none
    """

    task: str
    source: str
    stages: list[Stage]
    of: int
    tasks: list[str]
    before: str
    after: str
    missing: bool = False


class Histories:
    """The indices of the runs that were looked at lately."""

    def __init__(self, folders: Folders) -> None:
        self._folders, self._indices, self._lock = folders, Remembered(8), threading.Lock()

    def read(self, name: str, task: str, *, everything: bool = False) -> History | None:
        """Return a task's history; of the first task if it is none of the run's; None if there is nothing.

        everything  every step, however many
        raises      NotFound without that run
        """
        folder = self._folders.path(name)
        for file, source in SOURCES.items():
            index = self._index(folder / file)
            if names := _tasks(index):
                chosen = task if task in index.places else names[0]
                found = _history(index.rows(chosen), chosen, source, names, everything)
                return replace(found, missing=bool(task) and chosen != task)
        return None

    def _index(self, file: Path) -> TaskIndex:
        index = self._indices.get(file, None, lambda: TaskIndex(file))
        with self._lock:
            index.update()
        return index


def _tasks(index: TaskIndex) -> list[str]:
    """Return the tasks with more than one line, those with most lines first, then by name."""
    several = [name for name, places in index.places.items() if len(places) > 1]
    return sorted(several, key=lambda name: (-len(index.places[name]), name))[:TASKS]


def _history(rows: list[Row], task: str, source: str, names: list[str], everything: bool) -> History:
    by_step: dict[float, Row] = {}
    for row in rows:
        if isinstance(row.get("step"), int | float):
            by_step.setdefault(row["step"], row)
    steps = sorted(by_step)
    chosen = [by_step[step] for step in (steps if everything else evenly(steps, STEPS))]
    stages = [
        Stage(
            row,
            dropped(said(row), said(later) if later else None),
            before is not None and "message" in row and row.get("program") == before.get("program"),
        )
        for before, row, later in zip([None, *chosen[:-1]], chosen, [*chosen[1:], None], strict=True)
    ]
    place = names.index(task) if task in names else 0
    return History(
        task, source, stages, len(steps), names, names[place - 1] if place else "",
        names[place + 1] if place + 1 < len(names) else "",
    )  # fmt: skip


def said(row: Row) -> str:
    """Return what was sent: the message, or in the program channel the program itself."""
    return str(row.get("message", row.get("program", "")))
