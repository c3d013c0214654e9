"""The figure of `compare`: pass rate against bits per message, a panel a channel, over one axis of bits."""

from __future__ import annotations

from trainer.measure.compare import CHANNELS, CODES, Comparison, is_cut
from trainer.measure.figures import Panel, stacked
from trainer.measure.plot import Dot, Line
from trainer.measure.rates import Point

# How a channel's bits are counted, said beside its name.
COUNTED = {
    "text": "filled: tokens × log2 of the vocabulary; hollow: entropy-coded; faint: messages cut short",
    "program": "bits of the prefix code that a program is sent in",
    "latent": "K vectors × D numbers × bits a number, scales included; lines: fewer bits, fewer vectors",
}
GREY = 7


def figure(found: Comparison, *, standalone: bool = True) -> str:
    """Return the figure; empty text where there is nothing to draw.

    What was never trained is grey. Of several sets of tasks in a channel the first one is drawn.
    """
    there = {p.channel for p in found.points}
    panels = [_panel(found, channel) for channel in CHANNELS if channel in there]
    return stacked(
        panels, title="Held-out pass rate against bits per message, by channel",
        x_label="bits per message, log scale", unit="bits", standalone=standalone,
    )  # fmt: skip


def _panel(found: Comparison, channel: str) -> Panel:
    own = [p for p in found.points if p.channel == channel]
    own = [p for p in own if p.tasks == own[0].tasks]
    learned = [p for p in own if p.kind == "student"]
    most = max(learned or own, key=lambda p: p.runs)
    runs = f"{most.runs} runs, " if most.runs > 1 else ""
    place = CHANNELS.index(channel)
    best = {f.reached_by for f in found.fronts if f.channel == channel}
    # What was learned comes last, and lies on top.
    shown = sorted((p for p in own if _is_shown(p)), key=lambda p: p.kind in ("student", "untrained"))
    dots = [_dot(p, place, big=_is_main(p, best)) for p in shown]
    lines = [Line("the student's messages, cut short", _cut_short(own), place, "faint")]
    lines += [
        Line(f"{run} on the way, validation", points, place, "dash")
        for of, run, points in found.paths
        if of == channel
    ]
    lines += [Line(name, points, place, "faint") for name, points in _vectors(own).items()]
    note = f"{runs}{most.n} held-out tasks. {COUNTED[channel][:1].upper()}{COUNTED[channel][1:]}."
    return Panel(channel, note, place, dots, [line for line in lines if len(line.points) > 1])


def _is_shown(point: Point) -> bool:
    """Whether a point has a dot: no controls, nothing cut short, and nothing twice over."""
    if point.kind == "control" or "truncated" in point.name or is_cut(point):
        return False
    # One text twice over: in bits of a code, the untrained student's is as good as the reference itself.
    is_reference = point.name == "reference" or point.name.startswith("reference (")
    return point.code != "entropy" or point.kind == "student" or is_reference


def _is_main(point: Point, best: set[str]) -> bool:
    """Whether a point is what its panel is about: the student; of latents, in the fewest bits."""
    return point.kind == "student" and (point.channel != "latent" or point.name in best)


def _dot(point: Point, colour: int, *, big: bool) -> Dot:
    name = point.name
    if point.channel == "latent" and point.kind == "student":
        name = name.replace("student fp32, ", "").replace("student ", "") if name != "student" else "fp32"
        name = "first vector" if name == "first 1" else name
        name += " vectors" if name[-1].isdigit() and name.startswith("first") else ""
    if point.code == "entropy":
        name = f"{name}, {CODES['entropy']}"
    return Dot(
        name, point.bits.value, point.pass_rate.value,
        colour if point.kind in ("student", "untrained") else GREY,
        (point.bits.low, point.bits.high), (point.pass_rate.low, point.pass_rate.high),
        hollow=point.code == "entropy", big=big, detail=f"{point.runs} runs, {point.n} tasks",
    )  # fmt: skip


def _cut_short(points: list[Point]) -> list[tuple[float, float]]:
    """Return the curve of a text student's messages cut short, up to the whole ones."""
    cuts = [p for p in points if p.code == "tokens" and is_cut(p)]
    whole = [p for p in points if p.code == "tokens" and p.kind == "student"]
    return sorted((p.bits.value, p.pass_rate.value) for p in (*cuts, *whole[:1])) if cuts else []


def _vectors(points: list[Point]) -> dict[str, list[tuple[float, float]]]:
    """Return the two ways to send fewer bits of a latent message: coarser numbers, fewer vectors."""
    own = [p for p in points if p.channel == "latent" and p.kind == "student"]
    fewer = [p for p in own if "first" in p.name or p.name == "student"]
    coarser = [p for p in own if "first" not in p.name]
    return {
        name: sorted((p.bits.value, p.pass_rate.value) for p in some)
        for name, some in (("coarser numbers", coarser), ("fewer vectors", fewer))
    }
