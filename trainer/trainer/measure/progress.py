"""What a run looks like over its steps: curves, verdicts, seconds by room. From whatever was recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainer.measure.figures import curves, legend, smoothed, stack, thinned
from trainer.measure.folder import RunFolder
from trainer.measure.page import card, grid, section
from trainer.measure.plot import Layer, Line, Point
from trainer.measure.statistics import mean

REWARD = ("reward/mean", "reward")
PASS_RATE = ("pass_rate", "reward/pass_rate")
TOKENS = ("message/tokens", "message/tokens/mean")
RATIO = ("ratio", "message/ratio")
# Of the runs in a shared chart; 1 is the untrained student's, and the held-out points' of a single run.
COLOURS = (0, 2, 3, 4, 6, 5, 7)
OUTCOMES = {
    "passed": 2,
    "failed": 1,
    "raised": 4,
    "timeout": 3,
    "memory": 6,
    "output_limit": 5,
    "forbidden": 0,
    "truncated": 7,
    "refused": 7,
    "invisible": 8,
    "no_answer": 8,
}

# The order of the layers; the update is what is left of a step.
ROOMS = (("student samples", 0), ("decoder", 3), ("sandbox", 2), ("rest: student is updated", 6))


def colour_of(place: int) -> int:
    """Return the colour of a run among several."""
    return COLOURS[place % len(COLOURS)]


def figure(line: dict[str, Any], keys: Sequence[str]) -> float:
    """Return the first of the keys that holds a finite number; nan if none does."""
    for key in keys:
        value = line.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return math.nan


def series(run: RunFolder, keys: Sequence[str]) -> list[Point]:
    """Return (step, value) for every step that has one."""
    found = [(float(line["step"]), figure(line, keys)) for line in run.metrics]
    return [(step, value) for step, value in found if not math.isnan(value)]


def progress_section(runs: Sequence[RunFolder]) -> str:
    """Return the section of curves: steps faint, their moving mean strong, greedy points ringed."""
    many = len(runs) > 1
    shown = [
        ("Pass rate", "share of messages", PASS_RATE, ("heldout/pass_rate",), True, 0),
        ("Tokens per message", "tokens", TOKENS, ("heldout/tokens",), False, 0),
        ("Reward", "mean reward", REWARD, ("heldout/reward",), False, 3),
        ("Compression ratio", "reference / message tokens", RATIO, ("heldout/ratio",), False, 6),
    ]
    cards = []
    for title, label, keys, heldout, percent, colour in shown:
        lines = [
            line
            for i, run in enumerate(runs)
            for line in _lines(run, keys, heldout, colour_of(i) if many else colour, many)
        ]
        cards.append(
            card(
                curves(lines, title=title, y_label=label, percent=percent, zero=title.startswith("Tok")),
                title,
            )
        )
    names = [(run.name, colour_of(i), "") for i, run in enumerate(runs)] if many else []
    lead = (
        "Training messages are sampled: each step is the faint line, its moving mean the strong one. "
        "Ringed points are greedy messages on the validation tasks, which choose the checkpoint."
    )
    return section("Over the steps", lead, grid(cards) + legend(names))


def _lines(
    run: RunFolder, keys: Sequence[str], heldout: Sequence[str], colour: int, many: bool
) -> list[Line]:
    """Return one run's lines of one chart."""
    points, greedy = series(run, keys), series(run, heldout)
    lines = []
    if points:
        if not many and len(points) > 12:
            lines.append(Line(f"{run.name}: each step", points, colour, "faint"))
        lines.append(Line(run.name, smoothed(points, len(points) // 20), colour))
    if greedy:
        lines.append(Line(f"{run.name}: validation", greedy, colour if many else 1, "dash", dots=True))
    return lines


def rooms_section(runs: Sequence[RunFolder]) -> str:
    """Return verdicts by step and seconds by room, two cards a run."""
    cards = []
    for run in runs:
        of = f" · {run.name}" if len(runs) > 1 else ""
        cards += [card(verdicts(run), f"Verdicts{of}"), card(seconds(run), f"Seconds by room{of}")]
    lead = (
        "What the judge said of each step's programs, as shares; and where the seconds of a step went. "
        "The update is what is left of a step."
    )
    return section("Verdicts and seconds", lead, grid(cards))


def verdicts(run: RunFolder) -> str:
    """Return the stacked shares of the outcomes over the steps, with a legend of their totals."""
    lines = [(line, counts) for line in run.metrics if (counts := _counts(line))]
    names = sorted({name for _, counts in lines for name in counts}, key=_outcome_order)
    groups = thinned(len(lines), 80)
    if not groups:
        return ""
    shares: dict[str, list[float]] = {name: [] for name in names}
    for group in groups:
        total = math.fsum(math.fsum(lines[i][1].values()) for i in group) or 1.0
        for name in names:
            shares[name].append(math.fsum(lines[i][1].get(name, 0.0) for i in group) / total)
    steps = [mean([float(lines[i][0]["step"]) for i in group]) for group in groups]
    layers = [Layer(name, shares[name], OUTCOMES.get(name, 8)) for name in names]
    totals = {name: math.fsum(counts.get(name, 0.0) for _, counts in lines) for name in names}
    whole = math.fsum(totals.values()) or 1.0
    key = legend([(name, OUTCOMES.get(name, 8), f"{100 * totals[name] / whole:.1f} %") for name in names])
    return (
        stack(steps, layers, title="Verdict outcomes by step", y_label="share of messages", percent=True)
        + key
    )


def _counts(line: dict[str, Any]) -> dict[str, float]:
    """Return the counts by outcome of one step."""
    found = {key[8:]: figure(line, [key]) for key in line if key.startswith("verdict/")}
    return {name: value for name, value in found.items() if value > 0}


def _outcome_order(name: str) -> int:
    return list(OUTCOMES).index(name) if name in OUTCOMES else len(OUTCOMES)


def seconds(run: RunFolder) -> str:
    """Return the stacked seconds of a step by room, with a legend of their totals."""
    found = [(float(line["step"]), parts) for line in run.metrics if (parts := _parts(line))]
    groups = thinned(len(found), 80)
    if not groups:
        return ""
    totals = [math.fsum(parts[place] for _, parts in found) for place in range(len(ROOMS))]
    whole, layers, entries = math.fsum(totals) or 1.0, [], []
    for place, ((name, colour), total) in enumerate(zip(ROOMS, totals, strict=True)):
        if total:
            heights = [mean([found[i][1][place] for i in group]) for group in groups]
            layers.append(Layer(name, heights, colour))
            entries.append((name, colour, f"{total:.0f} s · {100 * total / whole:.0f} %"))
    steps = [mean([found[i][0] for i in group]) for group in groups]
    drawn = stack(steps, layers, title="Seconds of a step by room", y_label="seconds per step")
    return drawn + legend(entries)


def _parts(line: dict[str, Any]) -> list[float]:
    """Return one step's seconds in the order of ROOMS; none if the step was not timed."""
    whole = figure(line, ["time/step_s"])
    if math.isnan(whole):
        return []
    parts = [figure(line, [f"time/{name}_s"]) for name in ("sample", "decode", "sandbox")]
    parts = [0.0 if math.isnan(value) else max(0.0, value) for value in parts]
    return [*parts, max(0.0, whole - math.fsum(parts))]
