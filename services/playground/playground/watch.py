"""What is shown of a run while it goes on: figures, curves, verdicts, looks at held-out tasks, messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from playground.folders import Folders, RunCard
from playground.render import figure, lasting, percent
from playground.tails import Row, sampled, tail
from trainer.measure.figures import curves, legend, smoothed, stack, thinned
from trainer.measure.folder import latest_by_step
from trainer.measure.plot import Layer, Line
from trainer.measure.progress import OUTCOMES, PASS_RATE, RATIO, REWARD, TOKENS
from trainer.measure.progress import figure as number_of

WIDTH, HEIGHT = 420, 240
MESSAGES = 8
TAIL_BYTES = 200_000
MOST_LOOKS, PACE_STEPS = 13, 20


@dataclass(frozen=True)
class Curve:
    """One chart: its title, the figures of a step and of a held-out look it shows, how it is drawn."""

    title: str
    label: str
    keys: Sequence[str]
    heldout: str
    colour: int
    percent: bool = False
    zero: bool = False


CURVES = (
    Curve("Pass rate", "share of messages", PASS_RATE, "pass_rate", 0, percent=True),
    Curve("Solved", "share of programs", ("accuracy",), "accuracy", 0, percent=True),
    Curve("Tokens per message", "tokens", TOKENS, "tokens", 2, zero=True),
    Curve("Bits per program", "bits", ("program/bits",), "bits_per_program", 2, zero=True),
    Curve("Reward", "mean reward", REWARD, "reward", 3),
    Curve("Compression", "reference / message tokens", RATIO, "ratio", 6),
    Curve("Loss", "loss", ("loss",), "loss", 4),
    Curve("Cross-entropy", "nats a token", ("ce",), "ce", 0, zero=True),
    Curve("KL", "nats a token", ("kl",), "kl", 2, zero=True),
    Curve("Alignment", "1 − cosine", ("align",), "align", 3, zero=True),
)  # fmt: skip
MOST_CURVES = 4
# Name, the key in metrics.jsonl, and colour of what takes a step's time.
ROOMS = (
    ("student writes", "sample", 0),
    ("decoder", "decode", 3),
    ("sandbox", "sandbox", 2),
    ("teacher", "teacher", 3),
)


@dataclass(frozen=True)
class Tile:
    """One figure at the top: its value, what it is, and what is to be said beside it."""

    value: str
    name: str
    more: str = ""


@dataclass(frozen=True)
class Watched:
    """Everything on the page of one run.

    whole     whether every step was read, or a sample of them
    curves    title and drawing
    stacks    title, drawing and legend: verdicts, and seconds by room
    messages  of the last step, one a task
    looks     the lines of evaluations.jsonl, and what a finished run came to; at most MOST_LOOKS of them
    """

    card: RunCard
    tiles: list[Tile]
    curves: list[tuple[str, Markup]]
    stacks: list[tuple[str, Markup, Markup]]
    looks: list[Row]
    messages: list[Row]
    whole: bool


def watched(folders: Folders, name: str) -> Watched:
    """Return what is shown of a run. Raises NotFound."""
    folder, card = folders.path(name), folders.card(name)
    rows, whole = sampled(folder / "metrics.jsonl")
    rows = latest_by_step(rows)
    looks = [row for row in tail(folder / "evaluations.jsonl", TAIL_BYTES) if "step" in row]
    if card.state == "finished" and (final := _final(folders.object(name, "summary.json"))):
        looks.append(final)
    drawn = [(curve.title, Markup(svg)) for curve in CURVES if (svg := _curve(curve, rows, looks, name))]
    stacks = [("Verdicts", *_verdicts(rows)), ("Seconds of a step", *_seconds(rows))]
    return Watched(
        card, _tiles(card, rows, whole), drawn[:MOST_CURVES],
        [(title, Markup(svg), Markup(key)) for title, svg, key in stacks if svg],
        looks[-MOST_LOOKS:], latest_messages(tail(folder / "episodes.jsonl", TAIL_BYTES)), whole,
    )  # fmt: skip


def _final(summary: Row) -> Row:
    """Return what a finished run came to as one more line of its evaluations; empty if nobody looked."""
    held = summary.get("heldout")
    if not isinstance(held, dict) or not held:
        return {}
    named = {"tokens": held.get("tokens_per_message")}
    if isinstance(held.get("blind"), dict):
        named["pass_rate"] = held["blind"].get("student")
    return {**held, **named, "split": "test", "step": summary.get("step"), "final": True}


def _curve(curve: Curve, rows: Sequence[Row], looks: Sequence[Row], name: str) -> str:
    """Return one chart: steps faint, their moving mean strong, looks at validation tasks ringed."""
    points = _points(rows, curve.keys)
    seen = _points([row for row in looks if row.get("split") != "test"], [curve.heldout])
    lines = []
    if len(points) > 12:
        lines.append(Line(f"{name}: each step", points, curve.colour, "faint"))
    if points:
        lines.append(Line(f"{name}: moving mean", smoothed(points, len(points) // 20), curve.colour))
    if seen:
        lines.append(Line(f"{name}: held-out, greedy", seen, 1, "dash", dots=True))
    return curves(
        lines, title=curve.title, y_label=curve.label, percent=curve.percent, zero=curve.zero,
        width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def _points(rows: Sequence[Row], keys: Sequence[str]) -> list[tuple[float, float]]:
    found = [(float(row["step"]), number_of(row, keys)) for row in rows]
    return [(step, value) for step, value in found if not math.isnan(value)]


def _verdicts(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the stacked shares of the outcomes over the steps, and their legend with the last step's."""
    shares = [(row, found) for row in rows if (found := _shares(row))]
    names = sorted({name for _, found in shares for name in found}, key=_order)
    groups = thinned(len(shares), 80)
    if not groups:
        return "", ""
    layers = [
        Layer(name, [_mean([shares[i][1].get(name, 0.0) for i in group]) for group in groups], _colour(name))
        for name in names
    ]
    steps = [_mean([float(shares[i][0]["step"]) for i in group]) for group in groups]
    drawn = stack(
        steps, layers, title="Verdicts by step", y_label="share of messages", percent=True,
        width=WIDTH, height=HEIGHT,
    )  # fmt: skip
    last = shares[-1][1]
    return drawn, legend([(name, _colour(name), percent(last.get(name, 0.0), 0)) for name in names])


def _seconds(rows: Sequence[Row]) -> tuple[str, str]:
    """Return where the seconds of a step went, stacked, and the legend with the means of the last ones.

    They add up to the figure of `_tiles`.
    """
    timed = [(row, parts) for row in rows if (parts := _spent(row))]
    groups = thinned(len(timed), 80)
    if not groups:
        return "", ""
    names = [name for name, _, _ in ROOMS] + ["the rest: the student is updated"]
    colours = [colour for _, _, colour in ROOMS] + [6]
    shown = [i for i in range(len(names)) if any(parts[i] for _, parts in timed)]
    layers = [
        Layer(names[i], [_mean([timed[j][1][i] for j in group]) for group in groups], colours[i])
        for i in shown
    ]
    steps = [_mean([float(timed[j][0]["step"]) for j in group]) for group in groups]
    drawn = stack(
        steps, layers, title="Seconds of a step by room", y_label="seconds", width=WIDTH, height=HEIGHT
    )
    recent = [parts for _, parts in timed[-PACE_STEPS:]]
    means = [(names[i], colours[i], f"{_mean([parts[i] for parts in recent]):.2f} s") for i in shown]
    return drawn, legend(means)


def _spent(row: Row) -> list[float]:
    """Return a step's seconds in the order of ROOMS, the rest last; none if the step was not timed."""
    whole = number_of(row, ["time/step_s"])
    if math.isnan(whole):
        return []
    parts = [number_of(row, [f"time/{key}_s"]) for _, key, _ in ROOMS]
    parts = [0.0 if math.isnan(value) else max(0.0, value) for value in parts]
    return [*parts, max(0.0, whole - math.fsum(parts))]


def _shares(row: Row) -> dict[str, float]:
    """Return the outcomes' shares of one step; of a program run, solved, wrong and not executable."""
    found = {key[8:]: number_of(row, [key]) for key in row if key.startswith("verdict/")}
    if not found and not math.isnan(solved := number_of(row, ["accuracy"])):
        runs = number_of(row, ["executable"])
        found = {"solved": solved, "wrong": max(0.0, runs - solved), "raised": max(0.0, 1 - runs)}
    whole = math.fsum(value for value in found.values() if value > 0) or 1.0
    return {name: value / whole for name, value in found.items() if value > 0}


def _colour(name: str) -> int:
    return {"solved": 2, "wrong": 1}.get(name, OUTCOMES.get(name, 8))


def _order(name: str) -> int:
    known = ["solved", "wrong", *OUTCOMES]
    return known.index(name) if name in known else len(known)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _tiles(card: RunCard, rows: Sequence[Row], whole: bool) -> list[Tile]:
    """Return the figures at the top: of a finished run what it came to, else of the last step."""
    last, held = card.figures, card.heldout
    of = f"of {card.steps}" if card.steps else ""
    pace = [value for row in rows if not math.isnan(value := number_of(row, ["time/step_s"]))][-PACE_STEPS:]
    left = ""
    if pace and card.steps and card.step is not None and card.state == "running":
        left = f"about {lasting((card.steps - card.step) * _mean(pace))} left"
    tiles = [Tile("–" if card.step is None else str(card.step), f"step {of}".strip(), left)]
    if card.state == "finished" and held:
        tiles += _held_tiles(held)
    else:
        tiles += _step_tiles(last)
    if pace:
        tiles.append(
            Tile(
                f"{_mean(pace):.2f} s",
                "per step",
                f"mean of the last {len(pace)}{'' if whole else ' groups'}",
            )
        )
    return tiles


def _held_tiles(held: Row) -> list[Tile]:
    among = f"{held['n']} held-out tasks" if "n" in held else "held out"
    found = []
    if "pass_rate" in held:
        found.append(Tile(percent(held["pass_rate"]), "pass rate", among))
    if "accuracy" in held:
        found.append(Tile(percent(held["accuracy"]), "solved", among))
    if tokens := held.get("tokens_per_message", held.get("tokens")):
        found.append(Tile(figure(tokens, ".1f"), "tokens per message", "held out, greedy"))
    if bits := held.get("bits_per_program"):
        found.append(Tile(figure(bits, ".1f"), "bits per program", "of those that are right"))
    if ratio := held.get("compression_vs_untrained"):
        found.append(Tile(f"{figure(ratio, '.2f')}×", "shorter than untrained"))
    blind = held.get("blind")
    if isinstance(blind, dict):
        found += [
            Tile(percent(blind.get(who)), f"blind: {who}") for who in ("student", "none") if who in blind
        ]
    return found


def _step_tiles(last: Row) -> list[Tile]:
    found = [
        ("pass rate", percent(number_of(last, PASS_RATE)), "sampled messages"),
        ("solved", percent(number_of(last, ["accuracy"])), "sampled programs"),
        ("tokens per message", figure(number_of(last, TOKENS), ".1f"), "last step"),
        ("bits per program", figure(number_of(last, ["program/bits"]), ".1f"), "last step"),
        ("mean reward", figure(number_of(last, REWARD), ".3f"), "last step"),
    ]
    return [Tile(value, name, more) for name, value, more in found if value != "–"]


def latest_messages(rows: Sequence[Row]) -> list[Row]:
    """Return one episode of each of the last step's tasks, the last one written; not chosen by its result.

    Anchors, in which the untrained student has a part, are left out.
    """
    rows = [row for row in rows if not row.get("anchor")]
    last = max((row["step"] for row in rows if isinstance(row.get("step"), int)), default=None)
    chosen: dict[Any, Row] = {}
    recent = [row for row in reversed(rows) if row.get("step") == last] or list(reversed(rows))
    for row in recent:
        chosen.setdefault(str(row.get("task_id", row.get("place"))), row)
    return list(chosen.values())[:MESSAGES]
