"""The front a reward can draw: held-out pass rate against tokens, each setting of the reward a point.

A setting's runs (seeds) are taken together. What is drawn was measured by `evaluate`; nothing is run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from trainer.measure.figures import tradeoff
from trainer.measure.folder import RunFolder
from trainer.measure.plot import Dot, Line
from trainer.measure.rates import Front, Point, Series, front_of, point_of
from trainer.measure.statistics import Interval
from trainer.measure.tables import finite

# Who is drawn beside the settings, and the one that says everything: the front is measured against it.
BESIDE = {"untrained student": "untrained", "reference": "reference", "task text": "baseline"}
VERBOSE = "reference"
COLUMNS = ("setting", "seeds", "pass rate", "95 %", "tokens", "95 %", "vs untrained", "on the front")


@dataclass(frozen=True)
class Sweep:
    """Points by setting, in their order; what stands beside them; the front over all settings."""

    points: dict[str, Point]
    beside: list[Point]
    front: Front

    @property
    def on_front(self) -> list[str]:
        """The settings that no other beats on both."""
        return [name for name, p in self.points.items() if _place(p) in self.front.steps]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON; nan becomes None."""
        found: dict[str, Any] = finite({
            "settings": {name: p.as_json() for name, p in self.points.items()},
            "beside": [p.as_json() for p in self.beside],
            "front": {**self.front.as_json(), "settings": self.on_front},
        })  # fmt: skip
        return found


def swept(settings: Mapping[str, Sequence[RunFolder]]) -> Sweep:
    """Put the settings of a sweep side by side.

    settings  each setting's evaluated runs, one a seed
    raises    ValueError if a run was not evaluated, or on other tasks than the first
    """
    first = next(iter(settings.values()))[0]
    wanted = first.evaluation.get("tasks", {}).get("sha256")
    for run in (run for runs in settings.values() for run in runs):
        if not run.evaluation.get("records"):
            raise ValueError(f"{run.path}: not evaluated; run `psuedoptimal evaluate {run.path}` first")
        if run.evaluation["tasks"]["sha256"] != wanted:
            raise ValueError(
                f"{run.path}: evaluated on other tasks than {first.path}; run `psuedoptimal evaluate` on "
                "both again"
            )
    groups = {
        name: [_series(run, "student", "student", name) for run in runs] for name, runs in settings.items()
    }
    known = first.evaluation["records"]
    beside = [[_series(first, name, kind)] for name, kind in BESIDE.items() if name in known]
    verbose = next((g for g in beside if g[0].name == VERBOSE), beside[0])
    front = front_of([*groups.values()], verbose)
    return Sweep({n: point_of(g) for n, g in groups.items()}, [point_of(g) for g in beside], front)


def _series(run: RunFolder, sender: str, kind: Any, setting: str = "") -> Series:
    records = run.evaluation["records"][sender]
    tokens = tuple(int(r["tokens"]) for r in records)
    passed = tuple(r["outcome"] == "passed" and not r["refused"] for r in records)
    tasks = str(run.evaluation["tasks"]["sha256"])[:12]
    return Series(
        "text", sender, "tokens", kind, tuple(map(float, tokens)), passed, tasks, run.name, setting, tokens
    )


def _place(point: Point) -> tuple[float, float]:
    return (point.bits.value, point.pass_rate.value)


def as_rows(found: Sweep) -> list[list[str]]:
    """Return the table as cells, the head first."""
    before = next((p.bits.value for p in found.beside if p.kind == "untrained"), None)
    rows = [list(COLUMNS)]
    named = [*found.points.items(), *((p.name, p) for p in found.beside)]
    for name, p in named:
        times = f"{before / p.bits.value:.2f}x" if before and p.bits.value else "–"
        on = ("yes" if name in found.on_front else "no") if name in found.points else "–"
        rows.append([
            name, str(p.runs), f"{p.pass_rate.value:.3f}", _range(p.pass_rate, 2), f"{p.bits.value:.1f}",
            _range(p.bits, 1), times, on,
        ])  # fmt: skip
    return rows


def _range(found: Interval, digits: int) -> str:
    return f"{found.low:.{digits}f}–{found.high:.{digits}f}"


def summary(found: Sweep) -> str:
    """Return the front in words: its area, and the fewest tokens at 95 % of the reference's pass rate."""
    front = found.front
    said = f"area under the front {front.area.value:.3f} ({_range(front.area, 3)})"
    if front.tokens_at is None:
        return f"{said}; no setting reaches a pass rate of {front.level:.3f}"
    tokens = f"{front.tokens_at.value:.1f} tokens ({_range(front.tokens_at, 1)})"
    return f"{said}; {tokens} at a pass rate of {front.level:.3f} or above"


def as_text(found: Sweep) -> str:
    """Return the table and the front for a terminal."""
    rows = as_rows(found)
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:], "", summary(found)])


def as_markdown(found: Sweep) -> str:
    """Return the table and the front as Markdown."""
    head, *rows = as_rows(found)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", summary(found), ""])


def figure(found: Sweep, kinds: Mapping[str, str], *, standalone: bool = True) -> str:
    """Return the plot: each setting with its intervals, the front as a line, what was never trained in grey.

    kinds  each setting's kind of reward, which gives its colour
    """
    colours = {kind: i for i, kind in enumerate(dict.fromkeys(kinds.values()))}
    dots = [
        Dot(
            name, p.bits.value, p.pass_rate.value, colours[kinds[name]] % 7, (p.bits.low, p.bits.high),
            (p.pass_rate.low, p.pass_rate.high), big=name in found.on_front,
            detail=f"{p.runs} seeds, {p.n} tasks",
        )
        for name, p in found.points.items()
    ]  # fmt: skip
    dots += [
        Dot(p.name, p.bits.value, p.pass_rate.value, 7, (p.bits.low, p.bits.high),
            (p.pass_rate.low, p.pass_rate.high), hollow=True, detail=f"{p.n} tasks")
        for p in found.beside
    ]  # fmt: skip
    steps = found.front.steps
    corners = [p for (x0, y0), (x1, y1) in pairwise(steps) for p in ((x0, y0), (x1, y0), (x1, y1))] or steps
    lines = [Line("front", corners, 7, "dash")] if len(steps) > 1 else []
    return tradeoff(
        dots, lines, title="Held-out pass rate against tokens per message, by setting of the reward",
        standalone=standalone,
    )  # fmt: skip
