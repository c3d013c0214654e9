"""Real messages: how the same task was put over the steps, and what the student sends now.

Nothing is picked by its result: tasks are taken at even distances in the order of their ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

from trainer.measure.escape import html
from trainer.measure.folder import RunFolder
from trainer.measure.page import badge, card, grid, message, program, section, table

T = TypeVar("T")
TASKS, STEPS, EXAMPLES = 4, 7, 6


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` items at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def evolution_section(run: RunFolder) -> str:
    """Return the messages of the same tasks at several steps, from evaluations, else from training."""
    lines, source = run.heldout, "greedy messages of the held-out evaluations"
    chosen = _followed(lines)
    if not chosen:
        lines, source = run.episodes, "sampled messages of the training batches"
        chosen = _followed(lines)
    cards = [card(_history(by_step), task_id) for task_id, by_step in chosen]
    lead = (
        f"The same task, step by step: {source}. "
        "The tasks are taken at even distances, not chosen by their result. "
        "Open a message to see its program."
    )
    body = "".join(f'<div style="margin-top:14px">{c}</div>' for c in cards) if cards else card("")
    return section("How the messages evolved", lead, body)


def _followed(lines: Sequence[dict[str, Any]]) -> list[tuple[str, dict[float, dict[str, Any]]]]:
    """Return a few tasks with their line at each step; those seen at most steps come first into question."""
    tasks: dict[str, dict[float, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        if isinstance(line.get("step"), int | float) and line.get("task_id") is not None:
            tasks[str(line["task_id"])].setdefault(float(line["step"]), line)
    most = max((len(steps) for steps in tasks.values()), default=0)
    if most < 2:
        return []
    full = sorted(name for name, steps in tasks.items() if len(steps) == most)
    return [(name, tasks[name]) for name in evenly(full, TASKS)]


def _history(by_step: dict[float, dict[str, Any]]) -> str:
    """Return one task's table: step, tokens, verdict, message, and its program folded behind it."""
    rows = []
    for step in evenly(sorted(by_step), STEPS):
        line = by_step[step]
        folded = f"<summary>{message(line.get('message'))}</summary>{program(line.get('program'))}"
        cells = [
            f"{step:g}",
            html(line.get("tokens", "–")),
            badge(line.get("outcome")),
            f"<details>{folded}</details>",
        ]
        rows.append(("", cells))
    return table(["step", "tokens", "verdict", "message"], rows, texts=(3,))


def examples_section(run: RunFolder) -> str:
    """Return a few tasks with the trained and the untrained message, the program and its verdict."""
    records = run.evaluation.get("records", {})
    student = sorted(records.get("student", []), key=lambda r: str(r.get("task_id")))
    before = {r.get("task_id"): r for r in records.get("untrained student", [])}
    chosen = evenly(student, EXAMPLES)
    failed = [r for r in student if _outcome(r) != "passed" and r not in chosen]
    chosen += evenly(failed, 2) if not any(_outcome(r) != "passed" for r in chosen) else []
    about = run.evaluation.get("tasks", {}).get("items", {})
    cards = [card(_example(r, before.get(r.get("task_id")), about.get(r.get("task_id"), {}))) for r in chosen]
    if not cards:
        cards = [card(_episode(line)) for line in evenly(run.episodes[-64:], EXAMPLES)]
    lead = (
        "Held-out tasks at even distances; failures are added if none is among them. "
        "Hidden characters are marked."
    )
    return section("Examples", lead, grid(cards) if cards else card(""))


def _outcome(record: dict[str, Any]) -> Any:
    return record.get("refused") or record.get("outcome")


def _example(record: dict[str, Any], before: dict[str, Any] | None, about: dict[str, Any]) -> str:
    """Return one held-out task's card."""
    parts = [f"<h3>{html(record.get('task_id'))} {badge(_outcome(record))}</h3>"]
    if about:
        parts.append(
            f"<p>{html(about.get('text'), limit=600)}<br><code>{html(about.get('signature'))}</code></p>"
        )
    for who, line in (("untrained", before), ("trained", record)):
        if line:
            parts.append(f'<p class="label">{who} · {html(line.get("tokens"))} tokens</p>')
            parts.append(message(line.get("message")))
    parts.append(f'<p class="label">decoded</p>{program(record.get("program"))}')
    return "".join(parts)


def _episode(line: dict[str, Any]) -> str:
    """Return one training episode's card."""
    return (
        f"<h3>{html(line.get('task_id'))} {badge(line.get('outcome'))}</h3>"
        f'<p class="label">{html(line.get("tokens"))} tokens, step {html(line.get("step"))}</p>'
        f"{message(line.get('message'))}{program(line.get('program'))}"
    )
