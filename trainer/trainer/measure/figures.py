"""The report's three kinds of figure, drawn with `plot`: curves, a trade-off, a stack. Knows no runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from trainer.measure.escape import attribute
from trainer.measure.plot import Dot, Frame, Layer, Line, Point, number, span

# Width of a character of the 12 px label in a wide font (DejaVu Sans): labels may be narrower, never wider.
CHARACTER = 7.2
# Of the width: room beside the logarithmic axis for what has no tokens.
ZERO_SHARE = 0.06


class Box(NamedTuple):
    """A rectangle that a label or a dot covers, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two cover a common place."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def curves(
    lines: Sequence[Line],
    *,
    title: str,
    y_label: str,
    percent: bool = False,
    zero: bool = False,
    width: float = 560,
    height: float = 250,
    x_label: str = "step",
) -> str:
    """Return lines over the steps; empty text where there is nothing to draw."""
    points = [p for line in lines for p in line.points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not points:
        return ""
    y_range = (0.0, 1.0) if percent else span([y for _, y in points], zero=zero)
    steps = [x for x, _ in points]
    frame = Frame(
        (min(steps), max(steps)) if min(steps) < max(steps) else (min(steps) - 1, max(steps) + 1),
        y_range,
        x_label,
        y_label,
        title,
        width,
        height,
        percent=percent,
    )
    frame.axes()
    for line in lines:
        frame.polyline(line)
    return frame.svg()


def stack(
    steps: Sequence[float],
    layers: Sequence[Layer],
    *,
    title: str,
    y_label: str,
    percent: bool = False,
    width: float = 560,
    height: float = 250,
) -> str:
    """Return layers on top of each other over the steps, the first lowest; empty text for under 2 steps."""
    if len(steps) < 2 or not layers:
        return ""
    tops = [math.fsum(heights) for heights in zip(*(layer.heights for layer in layers), strict=True)]
    frame = Frame(
        (steps[0], steps[-1]),
        (0.0, 1.0) if percent else (0.0, max(tops) * 1.06 or 1.0),
        "step",
        y_label,
        title,
        width,
        height,
        percent=percent,
    )
    frame.axes()
    floor = [0.0] * len(steps)
    for layer in layers:
        roof = [low + high for low, high in zip(floor, layer.heights, strict=True)]
        edge = [(x, y) for x, y in zip(steps, roof, strict=True)]
        edge += [(x, y) for x, y in zip(reversed(steps), reversed(floor), strict=True)]
        path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in edge) + "Z"
        frame.add(
            f'<path class="area k{layer.colour}" d="{path}"><title>{attribute(layer.name)}</title></path>'
        )
        floor = roof
    return frame.svg()


def tradeoff(
    dots: Sequence[Dot],
    paths: Sequence[Line] = (),
    *,
    title: str,
    x_label: str = "tokens per message, log scale",
    unit: str = "tokens",
    width: float = 900,
    height: float = 460,
    standalone: bool = False,
) -> str:
    """Return pass rate against tokens: labelled dots with their intervals, and the way a student took.

    Dots without tokens (the empty message) have no place on a logarithmic axis: they stand left of it, over a
    0 of their own, with a break in the axis between.
    """
    xs = [d.x for d in dots if d.x > 0] + [x for line in paths for x, _ in line.points if x > 0]
    if not xs:
        return ""
    first, high = min(xs) / 1.35, max(xs) * 1.25
    zero = any(d.x <= 0 for d in dots)
    low = first / (high / first) ** ZERO_SHARE if zero else first
    frame = Frame(
        (low, high),
        (-0.03, 1.04),
        x_label,
        "held-out pass rate",
        title,
        width,
        height,
        log_x=True,
        percent=True,
        ticks_from=first,
    )
    frame.axes()
    if zero:
        _break(frame, first)
    _place(frame, dots, paths, unit, first)
    return frame.svg(standalone=standalone)


class Panel(NamedTuple):
    """One of several trade-offs under each other: what it is called, and what is drawn.

    note  what has to be said beside the name: how x is counted, of how many
    """

    name: str
    note: str
    colour: int
    dots: Sequence[Dot]
    lines: Sequence[Line]


def stacked(
    panels: Sequence[Panel], *, title: str, x_label: str, unit: str, y_label: str = "held-out pass rate",
    width: float = 900, height: float = 210, standalone: bool = False,
) -> str:  # fmt: skip
    """Return trade-offs under each other over one logarithmic axis: what is counted compares across them.

    height  of one panel, in pixels; dots at 0 are left out
    """
    points = [(d.x, d.y) for p in panels for d in p.dots]
    points += [point for p in panels for line in p.lines for point in line.points]
    xs = [x for x, _ in points if x > 0]
    if not xs:
        return ""
    x_range = (min(xs) / 1.35, max(xs) * 2.4)  # room for names on the right
    whole = Frame(x_range, (0, 1), x_label, y_label, title, width, height * len(panels) + 30)
    for place, panel in enumerate(panels):
        last = place == len(panels) - 1
        own = height + 30 if last else height
        frame = Frame(
            x_range, (-0.06, 1.18), x_label, y_label, panel.name, width, own, log_x=True, percent=True
        )
        frame.top, frame.bottom = 28.0, 44.0 if last else 14.0
        floor = frame.height - frame.bottom
        for value in frame.x_ticks():
            frame.add(f'<path class="grid" d="M{frame.x(value):.1f} {frame.top}V{floor}"/>')
        if last:
            frame.axes()
        else:
            frame.levels()
        head = f'<tspan class="head k{panel.colour}">{attribute(panel.name)}</tspan>'
        note = f'<tspan class="label" dx="10">{attribute(panel.note)}</tspan>'
        frame.add(f'<text x="{frame.left}" y="18">{head}{note}</text>')
        _place(frame, [d for d in panel.dots if d.x > 0], panel.lines, unit, x_range[0])
        whole.add(f'<g transform="translate(0 {place * height:g})">{"".join(frame.parts)}</g>')
    return whole.svg(standalone=standalone)


def _place(frame: Frame, dots: Sequence[Dot], paths: Sequence[Line], unit: str, first: float) -> None:
    """Draw lines, dots with their intervals, and labels where they cover little.

    first  where the logarithmic axis begins; dots at 0 stand left of it
    """
    low = frame.x_range[0]
    for line in paths:
        frame.polyline(line)
    places = [(frame.x(d.x) if d.x > 0 else _zero(frame, first), frame.y(d.y)) for d in dots]
    drawn = {Box(x - 6, y - 6, x + 6, y + 6) for x, y in places}
    drawn |= {Box(x - 2, y - 2, x + 2, y + 2) for line in paths for x, y in _pixels(frame, line)}
    for dot, (x, y) in zip(dots, places, strict=True):
        if dot.y_range:
            drawn.add(Box(x - 1, frame.y(dot.y_range[1]), x + 1, frame.y(dot.y_range[0])))
        if dot.x_range and dot.x > 0:
            drawn.add(Box(frame.x(max(dot.x_range[0], low)), y - 1, frame.x(max(dot.x_range[1], low)), y + 1))
    labels: list[str] = []
    names: list[Box] = []
    for dot, (x, y) in sorted(zip(dots, places, strict=True), key=lambda pair: not pair[0].big):
        _whiskers(frame, dot, x, low)
        shape, size = ("ring" if dot.hollow else "dot"), (7 if dot.big else 5)
        hint = f"{dot.name}: {dot.y * 100:.1f} % at {number(round(dot.x, 2))} {unit}. {dot.detail}"
        frame.add(
            f'<circle class="{shape} k{dot.colour}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">'
            f"<title>{attribute(hint.strip())}</title></circle>"
        )
        labels.append(_label(dot, x, y, drawn, names, frame))
    for label in labels:
        frame.add(label)


def _pixels(frame: Frame, line: Line) -> list[Point]:
    """Return a line's places, with some between them, so that labels keep off it."""
    ends = [(frame.x(x), frame.y(y)) for x, y in line.points]
    found = list(ends)
    for (x0, y0), (x1, y1) in pairwise(ends):
        found += [(x0 + (x1 - x0) * i / 8, y0 + (y1 - y0) * i / 8) for i in range(1, 8)]
    return found


def _zero(frame: Frame, first: float) -> float:
    """Return the horizontal place of dots without tokens."""
    return (frame.left + frame.x(first)) / 2


def _break(frame: Frame, first: float) -> None:
    """Draw the 0 beside a logarithmic axis that begins at `first`, and the break between the two."""
    base, x = frame.height - frame.bottom, frame.x(first)
    frame.add(
        f'<text class="tick" x="{_zero(frame, first):.1f}" y="{base + 17}" text-anchor="middle">0</text>'
    )
    frame.add(f'<path class="axis" d="M{x - 5:.1f} {base + 5}L{x - 1:.1f} {base - 5}"/>')
    frame.add(f'<path class="axis" d="M{x:.1f} {base + 5}L{x + 4:.1f} {base - 5}"/>')


def _whiskers(frame: Frame, dot: Dot, x: float, low: float) -> None:
    """Draw a dot's two intervals."""
    y = frame.y(dot.y)
    if dot.y_range:
        top, bottom = frame.y(dot.y_range[1]), frame.y(dot.y_range[0])
        frame.add(f'<path class="whisker k{dot.colour}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
    if dot.x_range and dot.x > 0:
        left, right = (frame.x(max(value, low)) for value in dot.x_range)
        frame.add(f'<path class="whisker k{dot.colour}" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')


def _label(dot: Dot, x: float, y: float, drawn: set[Box], names: list[Box], frame: Frame) -> str:
    """Return the dot's name at the nearest place beside it where it covers little, and take that place.

    A name that had to go far is tied to its dot by a thin line.
    """
    wide = len(dot.name) * CHARACTER
    choices = [(x + 10, y + 4), (x - wide - 10, y + 4), (x - wide / 2, y - 12), (x - wide / 2, y + 20)]
    for down in (-9, 17, -22, 30, -36, 44, -50, 58, -64, -78, -92, -106):
        choices += [(x + 10, y + down), (x - wide - 10, y + down)]
    boxes = [Box(left, base - 11, left + wide, base + 3) for left, base in choices]
    roof, floor, edge = frame.top - 6, frame.height - frame.bottom - 2, frame.width - 2
    outside = [b.left < frame.left or b.right > edge or b.top < roof or b.bottom > floor for b in boxes]
    # Two names on top of each other cannot be read; a name on a line can.
    unread = [sum(box.meets(name) for name in names) for box in boxes]
    covered = [sum(box.meets(mark) for mark in drawn) for box in boxes]
    best = min(range(len(boxes)), key=lambda i: (outside[i], unread[i], covered[i], i))
    names.append(boxes[best])
    left, base = choices[best]
    tie = ""
    if abs(base - y) > 20:
        end = left - 2 if left > x else left + wide + 2 if left + wide < x else x
        tie = f'<path class="grid" d="M{x:.1f} {y:.1f}L{end:.1f} {base - 4:.1f}"/>'
    kind = "name" if dot.big else "label"
    return (
        tie + f'<text class="{kind} k{dot.colour}" x="{left:.1f}" y="{base:.1f}">{attribute(dot.name)}</text>'
    )


def legend(entries: Sequence[tuple[str, int, str]]) -> str:
    """Return an HTML legend: name, colour, and what is to be said behind it (may be empty)."""
    items = "".join(
        f'<li><i class="k{colour}"></i>{attribute(name)}'
        + (f" <b>{attribute(more)}</b></li>" if more else "</li>")
        for name, colour, more in entries
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """Return the centred moving mean over `window` points; fewer at the ends."""
    half = max(0, window // 2)
    found = []
    for place, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, place - half) : place + half + 1]]
        found.append((x, math.fsum(near) / len(near)))
    return found


def thinned(rows: int, most: int) -> list[range]:
    """Return consecutive groups that cover range(rows), at most `most` of them, of nearly equal size."""
    groups = min(rows, most)
    edges = [round(i * rows / groups) for i in range(groups + 1)] if groups else []
    return [range(a, b) for a, b in pairwise(edges)]
