"""How few bits does a task need, through which channel? Runs side by side: points, fronts, one figure.

Each channel is measured on its own held-out tasks, the same for all its runs. A run is compared by what its
folder holds; nothing is run again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from trainer.measure.folder import RunFolder
from trainer.measure.rates import Front, Point, Series, front_of, grouped, point_of
from trainer.measure.rates_read import channel_of, path_of, series_of, settings_of
from trainer.measure.statistics import Interval
from trainer.measure.tables import finite
from trainer.pace import Pace

CHANNELS = ("text", "program", "latent")
SHARE = 0.95
# How messages that were cut short are called, see `rates_read`.
CUT = ", first "
# The sender that says everything, by channel: what a front is measured against. Of latents it is the
# student's whole message in full precision.
VERBOSE = {
    "text": ("reference", "tokens"), "program": ("literal program", "prefix"),
    "latent": ("student", "vectors"),
}  # fmt: skip
# The settings that decide what is measured, whatever was trained, by channel: what a sender costs that
# learned nothing, and what passes. Program coders are all judged by the same rules.
MEASURED = {
    "text": (
        "student_model", "generator_model", "max_completion_length", "max_program_tokens", "limits",
        "min_assurance",
    ),
    "program": (),
    "latent": ("teacher_model_name_or_path", "max_program_tokens", "limits", "min_assurance"),
}  # fmt: skip
CODES = {
    "tokens": "tokens × log2 V", "entropy": "entropy-coded", "prefix": "prefix code", "gzip": "gzip",
    "vectors": "K × D × bits",
}  # fmt: skip
COLUMNS = (
    "channel", "sender", "runs", "n", "pass rate", "95 %", "tokens", "bits", "95 %", "counted as",
    "entropy-coded bits", "95 %",
)  # fmt: skip


class Setting(NamedTuple):
    """What sets a run apart from the others of its channel; empty where only seeds do.

    own       all of it
    measured  what of it changes the figures of senders that learned nothing
    """

    own: str
    measured: str


@dataclass(frozen=True)
class Comparison:
    """Everything about some runs, ready to be shown.

    points  each sender's bits and pass rate
    fronts  by channel, set of tasks and code
    paths   by channel, the way of each run on its validation tasks, (bits, pass rate)
    notes   what has to be said beside
    """

    runs: list[str]
    points: list[Point]
    fronts: list[Front]
    paths: list[tuple[str, str, list[tuple[float, float]]]]
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON; nan becomes None."""
        found: dict[str, Any] = finite({
            "runs": self.runs,
            "points": [p.as_json() for p in self.points],
            "fronts": [f.as_json() for f in self.fronts],
            "paths": [{"channel": c, "run": r, "points": p} for c, r, p in self.paths],
            "notes": self.notes,
        })  # fmt: skip
        return found


def compare(runs: Sequence[RunFolder]) -> Comparison:
    """Put runs side by side.

    runs    seeds of the same settings are taken together; other settings are named by what differs, those
            that change what is measured at the senders that learned nothing too
    raises  ValueError if a run was not evaluated, or runs of one channel on different tasks
    """
    runs = sorted(runs, key=lambda run: CHANNELS.index(channel_of(run)))
    settings = _settings(runs)
    series: list[Series] = []
    pace = Pace("runs read", len(runs))
    for run in runs:
        setting = settings[run.path]
        for one in series_of(run):
            series.append(replace(one, setting=setting.own if _is_trained(one) else setting.measured))
        pace.add()
    _same_tasks(series)
    groups = _once(grouped(series))
    measured = {
        (channel_of(run), text): settings[run.path].measured for run in runs for text in settings[run.path]
    }
    fronts = _fronts(groups, measured)
    paths = [(channel_of(run), run.name, path_of(run)) for run in runs]
    return Comparison(
        [run.name for run in runs], [point_of(group) for group in groups], fronts,
        [path for path in paths if path[2]], _notes(groups, fronts),
    )  # fmt: skip


def _is_trained(series: Series) -> bool:
    """Whether a sender is a run's own: what it learned, or is made of that."""
    if series.channel == "latent":  # Even noise and plans are given the shape of the student's vectors.
        return series.name != "none"
    return series.kind == "student" or series.name.startswith(("student", "coder"))


def _settings(runs: Sequence[RunFolder]) -> dict[Path, Setting]:
    """Return for each run what sets it apart from the others of its channel."""
    found: dict[Path, Setting] = {}
    for channel in CHANNELS:
        own = [run for run in runs if channel_of(run) == channel]
        settings = {run.path: settings_of(run) for run in own}
        keys = {key for value in settings.values() for key in value}
        differ = sorted(
            key for key in keys
            if len({
                json.dumps(value.get(key), sort_keys=True, default=str) for value in settings.values()
            }) > 1
        )  # fmt: skip
        for path, value in settings.items():
            said = {key: f"{key} {value.get(key)}" for key in differ}
            measured = [text for key, text in said.items() if key in MEASURED[channel]]
            found[path] = Setting(", ".join(said.values()), ", ".join(measured))
    return found


def _same_tasks(series: Sequence[Series]) -> None:
    """Refuse text or latent runs that were measured on different tasks: their points cannot be compared."""
    for channel in ("text", "latent"):
        sets: dict[str, str] = {}
        for one in series:
            if one.channel == channel:
                sets.setdefault(one.tasks, one.run)
        if len(sets) > 1:
            runs = ", ".join(f"{run} ({tasks})" for tasks, run in sets.items())
            raise ValueError(
                f"{channel} runs measured on different tasks: {runs}; evaluate them with the same --tasks, "
                "--split and --n"
            )


def _once(groups: Sequence[Sequence[Series]]) -> list[list[Series]]:
    """Return the groups with one series of each run, or with one where every run has the same one.

    A sender that learned nothing says the same in every run, unless it is cut to what the student takes, or
    the services answered otherwise. The runs are put in order: intervals are drawn from it.
    """

    def sender(group: Sequence[Series]) -> tuple[str, ...]:
        return replace(group[0], code="").group

    several = {
        sender(group)
        for group in groups
        if _is_trained(group[0])
        or group[0].name.endswith("truncated")
        or any((one.bits, one.passed) != (group[0].bits, group[0].passed) for one in group)
    }
    ordered = [sorted(group, key=lambda one: (one.run, one.bits, one.passed)) for group in groups]
    return [group if sender(group) in several else group[:1] for group in ordered]


def _fronts(groups: Sequence[Sequence[Series]], measured: Mapping[tuple[str, str], str]) -> list[Front]:
    """Return the fronts of each channel's set of tasks, in each code something was learned in.

    Runs that were measured under other settings have a front of their own, against their own baselines.
    Without the sender that says everything there is no front: nothing to measure it against.

    measured  by channel and setting, the part of the setting that changes what is measured
    """

    def place(group: Sequence[Series]) -> tuple[str, str, str]:
        return (group[0].channel, group[0].tasks, measured[group[0].channel, group[0].setting])

    fronts = []
    keys = dict.fromkeys((*place(g), g[0].code) for g in groups if g[0].kind == "student")
    for channel, tasks, setting, code in keys:
        own = [g for g in groups if place(g) == (channel, tasks, setting)]
        sent = [g for g in own if g[0].code == code and g[0].kind not in ("control", "reference")]
        # Sending nothing is free: what it passes counts from no bits on.
        sent += [g for g in own if g[0].code == code and g[0].name in ("empty message", "none")]
        name, counted = VERBOSE[channel]
        verbose = [g for g in own if (g[0].name, g[0].code) == (name, counted)]
        if verbose:
            # Latent students of several settings each have a whole message: the one of the most bits.
            most = max(verbose, key=lambda g: (fmean(g[0].bits), fmean(p for s in g for p in s.passed)))
            fronts.append(front_of(sent, most, SHARE))
    return fronts


def _several(fronts: Sequence[Front]) -> set[tuple[str, str, str]]:
    """Return the channels, sets of tasks and codes that have more than one front."""
    counted = Counter((f.channel, f.tasks, f.code) for f in fronts)
    return {key for key, times in counted.items() if times > 1}


def _notes(groups: Sequence[Sequence[Series]], fronts: Sequence[Front]) -> list[str]:
    """Return what a reader has to know to read the figures."""
    codes = {g[0].code for g in groups}
    channels = {g[0].channel for g in groups}
    notes = []
    if len(channels) > 1:
        notes.append("Each channel has tasks of its own: across channels compare bits, not pass rates.")
    for channel in dict.fromkeys(channel for channel, _, _ in sorted(_several(fronts))):
        notes.append(
            f"{channel}: the runs differ in settings that change what is measured; each of these has "
            "baselines and fronts of its own."
        )
    if "entropy" in codes:
        notes.append(
            "Entropy-coded: real code words, the end paid for, by a model of token triples fitted on the "
            "messages to the other tasks (10 folds). Tokens x log2 V does not pay for the end."
        )
    if "gzip" in codes:
        notes.append("gzip: what the text would take; the decoder cannot read it, so it is unzipped first.")
    if "program" in channels and any(g[0].tasks.startswith("validation/") for g in groups):
        notes.append(
            "program: not evaluated; its last look at the validation sequences stands here, without a front."
        )
    return notes


# --- shown ------------------------------------------------------------------------------------------


def as_rows(found: Comparison) -> list[list[str]]:
    """Return the table of the points as cells, the head first; messages cut short are left to the figure."""
    rows = [list(COLUMNS)]
    sets = {channel: {p.tasks for p in found.points if p.channel == channel} for channel in CHANNELS}
    coded = {(p.channel, p.name, p.runs, p.n): p for p in found.points if p.code == "entropy"}
    for p in found.points:
        if p.code == "entropy" or is_cut(p):
            continue
        short = coded.get((p.channel, p.name, p.runs, p.n))
        rows.append([
            p.channel, p.name if len(sets[p.channel]) < 2 else f"{p.name}; {p.tasks.rpartition('/')[0]}",
            str(p.runs), str(p.n) if p.n > 1 else "–",
            f"{p.pass_rate.value:.3f}", _range(p.pass_rate, 2),
            "–" if p.tokens is None else f"{p.tokens.value:.1f}", f"{p.bits.value:.1f}",
            _range(p.bits, 1), CODES.get(p.code, p.code), *(
                (f"{short.bits.value:.1f}", _range(short.bits, 1)) if short else ("–", "–")
            ),
        ])  # fmt: skip
    return rows


def is_cut(point: Point) -> bool:
    """Whether these are a text student's messages cut short, of which only the curve is shown."""
    return point.channel == "text" and CUT in point.name


def front_rows(found: Comparison) -> list[list[str]]:
    """Return the table of the fronts as cells, the head first."""
    rows = [["channel", "tasks", "code", "area under the front", "95 %", f"bits at {SHARE:.0%}", "95 %",
             "tokens", "by"]]  # fmt: skip
    several = _several(found.fronts)
    for f in found.fronts:
        against = f"; {f.verbose}" if (f.channel, f.tasks, f.code) in several else ""
        tokens = "–" if f.tokens_at is None else f"{f.tokens_at.value:.1f} ({_range(f.tokens_at, 1)})"
        reached = math.isfinite(f.bits_at.value)
        rows.append([
            f.channel, f.tasks + against, CODES.get(f.code, f.code), f"{f.area.value:.3f}", _range(f.area, 3),
            f"{f.bits_at.value:.1f}" if reached else "not reached", _range(f.bits_at, 1) if reached else "–",
            tokens, f.reached_by or "–",
        ])  # fmt: skip
    return rows


def _range(found: Interval, digits: int) -> str:
    """Return an interval; a dash for a figure that has none."""
    return "–" if found.low == found.high else f"{found.low:.{digits}f}–{found.high:.{digits}f}"


def as_text(found: Comparison) -> str:
    """Return both tables and the notes for a terminal."""
    parts = [_aligned(as_rows(found)), _aligned(front_rows(found)), "\n".join(f"* {n}" for n in found.notes)]
    return "\n\n".join(part for part in parts if part)


def as_markdown(found: Comparison) -> str:
    """Return both tables and the notes as Markdown, for a README."""

    def table(rows: list[list[str]]) -> str:
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)

    return "\n\n".join([table(as_rows(found)), table(front_rows(found)), *found.notes]) + "\n"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
