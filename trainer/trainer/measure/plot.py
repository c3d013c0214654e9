"""A small SVG plotter: axes, ticks, lines, dots with whiskers, stacked areas, legend; light and dark.

Draws what it is given and knows nothing of runs. Colours are CSS classes k0..k8, so that one style sheet
serves the report and a standalone file. Every text passes through `escape`; nothing refers to
anything outside the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.measure.escape import attribute

STYLE = """
.plot{--k0:#0b66c3;--k1:#c2570c;--k2:#12805c;--k3:#7a3ec8;--k4:#c0265b;--k5:#8a7400;--k6:#0a7d8c;--k7:#66717d;
--k8:#aab4be;--ink:#16202b;--muted:#566472;--rule:#e4e8ec;--paper:#fff;
font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--ink)}
@media (prefers-color-scheme:dark){.plot{--k0:#5aa9ff;--k1:#ff9d5c;--k2:#4fd1a5;--k3:#b794ff;--k4:#ff7aa8;
--k5:#d9c24a;--k6:#4fc9d9;--k7:#93a1af;--k8:#5d6b78;--ink:#e6ebf0;--muted:#a3b0bc;--rule:#26313c;--paper:#151c24}}
.k0{--k:var(--k0)}.k1{--k:var(--k1)}.k2{--k:var(--k2)}.k3{--k:var(--k3)}.k4{--k:var(--k4)}.k5{--k:var(--k5)}
.k6{--k:var(--k6)}.k7{--k:var(--k7)}.k8{--k:var(--k8)}
.plot .grid{stroke:var(--rule);stroke-width:1}.plot .axis{stroke:var(--muted);stroke-width:1}
.plot .tick,.plot .label{fill:var(--muted)}.plot .head{fill:var(--k);font-weight:600;font-size:14px}
.plot .name{fill:var(--k);font-weight:600}
.plot .line{fill:none;stroke:var(--k);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.plot .faint{fill:none;stroke:var(--k);stroke-width:1;opacity:.28}
.plot .dash{fill:none;stroke:var(--k);stroke-width:1.5;stroke-dasharray:2 4;stroke-linecap:round}
.plot .whisker{stroke:var(--k);stroke-width:1.25;opacity:.55}.plot .area{fill:var(--k);opacity:.82}
.plot .dot{fill:var(--k);stroke:var(--paper);stroke-width:1.5}
.plot .ring{fill:var(--paper);stroke:var(--k);stroke-width:2}
.plot .swatch{fill:var(--k)}
"""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A polyline. style: line, faint or dash; dots: ringed points drawn on it."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    style: str = "line"
    dots: bool = False


@dataclass(frozen=True)
class Dot:
    """One labelled point with its intervals. hollow marks a control; big the one it is about."""

    name: str
    x: float
    y: float
    colour: int = 0
    x_range: Point | None = None
    y_range: Point | None = None
    hollow: bool = False
    big: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Layer:
    """One layer of a stack: heights [n] at the stack's x values."""

    name: str
    heights: Sequence[float]
    colour: int = 0


@dataclass
class Frame:
    """The rectangle data is drawn in, and what maps data to it. Ranges are in data units.

    ticks_from  the horizontal axis has no ticks below this
    """

    x_range: Point
    y_range: Point
    x_label: str
    y_label: str
    title: str
    width: float = 560
    height: float = 300
    log_x: bool = False
    percent: bool = False
    ticks_from: float = 0.0
    parts: list[str] = field(default_factory=list)

    left, right, top, bottom = 62.0, 16.0, 14.0, 44.0

    def x(self, value: float) -> float:
        """Return the horizontal place of a value, in pixels."""
        low, high = self.x_range
        if self.log_x:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low * 1e-9, 1e-9))
        return self.left + (value - low) / ((high - low) or 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Return the vertical place of a value, in pixels, growing downwards."""
        low, high = self.y_range
        return (
            self.height
            - self.bottom
            - (value - low) / ((high - low) or 1) * (self.height - self.top - self.bottom)
        )

    def add(self, part: str) -> None:
        """Append a piece of SVG."""
        self.parts.append(part)

    def axes(self) -> None:
        """Draw grid, ticks and the two labels."""
        self.levels()
        base = self.height - self.bottom
        for value in self.x_ticks():
            x = self.x(value)
            self.add(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
            self.add(
                f'<text class="tick" x="{x:.1f}" y="{base + 17}" text-anchor="middle">{number(value)}</text>'
            )
        self.add(
            f'<line class="axis" x1="{self.left}" x2="{self.width - self.right}" y1="{base}" y2="{base}"/>'
        )
        middle = (self.left + self.width - self.right) / 2
        self.add(
            f'<text class="label" x="{middle:.1f}" y="{self.height - 8}" text-anchor="middle">'
            f"{attribute(self.x_label)}</text>"
        )

    def x_ticks(self) -> list[float]:
        """Return the values that the horizontal axis names."""
        if self.log_x:
            return log_ticks(max(self.x_range[0], self.ticks_from), self.x_range[1])
        return ticks(*self.x_range, 6)

    def levels(self) -> None:
        """Draw the horizontal lines with their values, and the label of the vertical axis."""
        base = self.height - self.bottom
        high = min(1.0, self.y_range[1]) if self.percent else self.y_range[1]
        for value in ticks(self.y_range[0], high, 6):
            y = self.y(value)
            text = f"{value * 100:g} %" if self.percent else number(value)
            self.add(f'<path class="grid" d="M{self.left} {y:.1f}H{self.width - self.right}"/>')
            self.add(
                f'<text class="tick" x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
            )
        across = (self.top + base) / 2
        self.add(
            f'<text class="label" transform="translate(13 {across:.1f}) rotate(-90)" text-anchor="middle">'
            f"{attribute(self.y_label)}</text>"
        )

    def polyline(self, line: Line) -> None:
        """Draw a line; points that are not finite are left out."""
        places = [(self.x(x), self.y(y)) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        if len(places) > 1:
            self.add(
                f'<path class="{line.style} k{line.colour}" d="{path}">'
                f"<title>{attribute(line.name)}</title></path>"
            )
        for x, y in places if line.dots or len(places) == 1 else ():
            self.add(f'<circle class="ring k{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')

    def svg(self, *, standalone: bool = False) -> str:
        """Return the picture: to be put into HTML, or a file of its own with its style sheet."""
        space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
        style = f"<style>{STYLE}</style>" if standalone else ""
        size = f' width="{self.width:g}" height="{self.height:g}"' if standalone else ""
        return (
            f'<svg{space} class="plot" viewBox="0 0 {self.width:g} {self.height:g}"{size} role="img" '
            f'aria-label="{attribute(self.title)}">{style}<title>{attribute(self.title)}</title>{"".join(self.parts)}</svg>'
        )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return about `most` round values inside [low, high], in steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low] if math.isfinite(low) else []
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high / step - first) + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten inside [low, high]."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def number(value: float) -> str:
    """Return a number as short as it can be read: 0.25, 12, 1.5k, 3M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):g}{sign}"
    return f"{value:.4g}"


def span(values: Sequence[float], *, zero: bool = False, pad: float = 0.06) -> Point:
    """Return a range that holds every finite value with a margin; with 0 in it if asked."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high - low) * pad or abs(high) * 0.1 or 1.0
    return (low if zero and low == 0 else low - margin), high + margin
