"""What runs came to on held-out tasks: figures, the trade-off beside its baselines, parts, the language.

From evaluation.json; a run that was not evaluated shows what its summary.json says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainer.measure.escape import html
from trainer.measure.figures import tradeoff
from trainer.measure.folder import RunFolder
from trainer.measure.page import card, grid, section, table
from trainer.measure.plot import Dot, Line
from trainer.measure.progress import colour_of, figure
from trainer.measure.statistics import Interval
from trainer.measure.tables import Row, median_rows, row_from_json

KINDS = {"untrained": 1, "baseline": 7, "control": 8}
EVALUATE = "Run <code>psuedoptimal evaluate RUN</code> to measure it beside its baselines."


def rows_of(run: RunFolder) -> list[Row]:
    """Return the rows of the run's last evaluation; none if it was not evaluated.

    raises  ValueError if another version wrote them
    """
    try:
        return [row_from_json(row) for row in run.evaluation.get("rows", [])]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{run.path}/evaluation.json is of another version ({error.__cause__ or error}); "
            f"run `psuedoptimal evaluate {run.path}`"
        ) from error


def evaluated(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Return those of the runs that were evaluated."""
    return [run for run in runs if rows_of(run)]


def shared_rows(runs: Sequence[RunFolder]) -> list[Row]:
    """Return the rows of one run, or several runs' medians. Raises ValueError if their tasks differ."""
    measured = evaluated(runs)
    tasks = [run.evaluation.get("tasks", {}).get("sha256") for run in measured]
    if other := next((run.path for run, own in zip(measured, tasks, strict=True) if own != tasks[0]), None):
        raise ValueError(
            f"{measured[0].path} and {other}: evaluated on different tasks; `psuedoptimal evaluate` both "
            "with the same --n, which is neither's heldout_tasks, or --split, and report that --evaluation"
        )
    tables = [rows_of(run) for run in measured]
    return median_rows(tables) if len(tables) > 1 else next(iter(tables), [])


def figures_section(runs: Sequence[RunFolder]) -> str:
    """Return the few numbers a reader came for."""
    rows = shared_rows(runs)
    student = next((row for row in rows if row.kind == "student"), None)
    if student is None:
        return _summary_figures(runs[0])
    measured = evaluated(runs)
    several = len(measured) > 1
    spread = "seeds" if several else "95 %"
    rate, tokens = student.pass_rate, student.tokens
    cards = [
        _figure(
            f"{rate.value * 100:.1f} %",
            "held-out pass rate",
            f"{spread}: {rate.low * 100:.0f} to {rate.high * 100:.0f} %",
        ),
        _figure(
            f"{tokens.value:.1f}", "tokens per message", f"{spread}: {tokens.low:.1f} to {tokens.high:.1f}"
        ),
    ]
    for ratio, name in (
        (student.compression_vs_untrained, "shorter than untrained"),
        (student.compression_vs_reference, "shorter than reference"),
    ):
        if ratio is not None:
            cards.append(_figure(_said(ratio), name, f"{spread}: {ratio.low:.2f} to {ratio.high:.2f}"))
    split = measured[0].evaluation.get("tasks", {}).get("split") or "test"
    more = f"{split} split, median of {len(measured)} runs" if several else f"{split} split, greedy"
    if len(measured) < len(runs):
        more += f"; {len(measured)} of {len(runs)} runs evaluated"
    cards.append(_figure(str(student.n), "held-out tasks", more))
    return f'<div class="figures">{"".join(cards)}</div>'


def _summary_figures(run: RunFolder) -> str:
    """Return what summary.json says, for a run without an evaluation."""
    heldout = run.summary.get("heldout")
    if not isinstance(heldout, dict):
        return ""
    shown = [
        (key.replace("_", " "), value) for key, value in heldout.items() if isinstance(value, int | float)
    ]
    return f'<div class="figures">{"".join(_figure(f"{value:.4g}", name, "") for name, value in shown)}</div>'


def _figure(value: str, name: str, more: str) -> str:
    return f'<div class="card"><b>{html(value)}</b><span>{html(name)}</span><small>{html(more)}</small></div>'


def tradeoff_svg(runs: Sequence[RunFolder], *, standalone: bool = False) -> str:
    """Return pass rate against tokens: each run's student and the way it took, and the senders beside it."""
    paths = [
        Line(f"{run.name}: over the steps", path, colour_of(i), "dash")
        for i, run in enumerate(runs)
        if len(path := _path(run)) > 1
    ]
    dots = []
    for i, run in enumerate(runs):
        for row in rows_of(run):
            if row.kind == "student":
                name = "trained student" if len(runs) == 1 else run.name
                dots.append(_dot(row, name, colour_of(i), big=True))
    for row in shared_rows(runs):
        if row.kind != "student":
            dots.append(_dot(row, row.name, KINDS.get(row.kind, 7), big=row.kind == "untrained"))
    if not dots:
        dots = [
            Dot(run.name, *path[-1], colour=colour_of(i), big=True)
            for i, run in enumerate(runs)
            if (path := _path(run))
        ]
    return tradeoff(dots, paths, title="Held-out pass rate against tokens per message", standalone=standalone)


def _dot(row: Row, name: str, colour: int, big: bool) -> Dot:
    return Dot(
        name,
        row.tokens.value,
        row.pass_rate.value,
        colour,
        x_range=(row.tokens.low, row.tokens.high),
        y_range=(row.pass_rate.low, row.pass_rate.high),
        hollow=row.kind == "control",
        big=big,
        detail=f"n = {row.n}",
    )


def _path(run: RunFolder) -> list[tuple[float, float]]:
    """Return (tokens, pass rate) of the held-out evaluations during training."""
    found = [(figure(m, ["heldout/tokens"]), figure(m, ["heldout/pass_rate"])) for m in run.metrics]
    return [(x, y) for x, y in found if not math.isnan(x) and not math.isnan(y)]


def tradeoff_section(runs: Sequence[RunFolder]) -> str:
    """Return the plot and the table under it."""
    drawn, rows, several = tradeoff_svg(runs), shared_rows(runs), len(evaluated(runs)) > 1
    lead = (
        "Up is right more often, left is shorter. Each sender goes through the same decoder and the same "
        "sandbox. "
        "Whiskers are 95 % intervals; the dotted line is the way the student took on the validation tasks; "
        "controls (rings) must do badly, or the decoder is guessing."
    )
    if several:
        lead += " Of the senders that are the same in every run, the median and the range are shown."
    body = card(f'<div class="wide">{drawn}</div>' if drawn else "")
    if not rows:
        return section("Pass rate against tokens", lead, body + f'<p class="lead">{EVALUATE}</p>')
    more = "<p class='lead'>Medians over the runs, with their range.</p>" if several else ""
    return (
        section("Pass rate against tokens", lead, body)
        + f'<div class="card" style="margin-top:14px">{more}{_table(rows)}</div>'
    )


def _table(rows: Sequence[Row]) -> str:
    """Return the senders' table, with what has to be said about them below."""
    head = ["sender", "pass rate", "tokens", "tokens if passed", "bytes", "vs untrained", "vs reference", "n"]
    lines = [
        (
            row.kind,
            [
                html(row.name),
                _interval(row.pass_rate, 100, " %"),
                _interval(row.tokens),
                "–" if row.tokens_passed is None else f"{row.tokens_passed:.1f}",
                f"{row.bytes:.0f}",
                _said(row.compression_vs_untrained),
                _said(row.compression_vs_reference),
                str(row.n),
            ],
        )
        for row in rows
    ]
    notes = "".join(
        f"<li>{html(row.name)}: {html(note, limit=300)}</li>" for row in rows for note in row.notes[:6]
    )
    return table(head, lines) + (f'<ul class="label">{notes}</ul>' if notes else "")


def families_section(run: RunFolder) -> str:
    """Return the pass rate by part of the task, the worst first: an average hides a part that died."""
    groups = run.evaluation.get("families", {}).get("student", {})
    found = groups.get("part") or groups.get("family") or []
    if not found:
        return ""
    lines = [
        (
            "",
            [
                html(g["name"]),
                str(g["n"]),
                _bar(g["pass_rate"]["value"]),
                f"{g['pass_rate']['value'] * 100:.0f} %",
                f"{g['tokens']:.1f}",
            ],
        )
        for g in found
    ]
    half = math.ceil(len(lines) / 2)
    head = ["part", "n", "", "pass rate", "tokens"]
    cards = [card(table(head, part)) for part in (lines[:half], lines[half:]) if part]
    lead = (
        "The student's held-out pass rate by what the tasks are made of, worst first; "
        "a task counts in each of its parts."
    )
    return section("By part of the task", lead, grid(cards))


def _interval(found: Interval, times: float = 1, unit: str = "") -> str:
    """Return a value with its interval below it."""
    value, low, high = (number * times for number in found)
    return f"{value:.1f}{unit}<br><small>{low:.1f}–{high:.1f}</small>"


def _said(ratio: Interval | None) -> str:
    """Return a ratio with the sign for times; a dash where there is none."""
    return "–" if ratio is None else f"{ratio.value:.2f}×"


def _bar(share: float) -> str:
    """Return a bar of a share, 90 pixels wide at 1."""
    return (
        f'<svg class="plot" style="width:90px;height:10px" viewBox="0 0 90 10" aria-hidden="true">'
        f'<rect class="grid" fill="none" x=".5" y=".5" width="89" height="9" rx="3"/>'
        f'<rect class="swatch k2" width="{90 * min(1.0, max(0.0, share)):.1f}" height="10" rx="3"/></svg>'
    )


def language_section(run: RunFolder) -> str:
    """Return what the messages are like, before and after, and which words of the reference survive."""
    spoken = run.evaluation.get("language", {})
    student, before = spoken.get("student"), spoken.get("untrained student", {})
    if not student:
        return ""
    names = [
        ("tokens", "tokens in all messages"),
        ("distinct_tokens", "distinct tokens"),
        ("type_token", "type / token"),
        ("token_entropy_bits", "entropy of a token, bits"),
        ("distinct_messages", "distinct messages"),
        ("message_entropy_bits", "entropy of a message, bits"),
    ]
    lines = [("", [html(name), _number(before.get(key)), _number(student.get(key))]) for key, name in names]
    for key, name in (
        ("by_family", "similarity to the task's family"),
        ("by_reference", "similarity to the reference code"),
    ):
        lines.append(
            ("", [f"topographic {name}", _similarity(before.get(key)), _similarity(student.get(key))])
        )
    for key, name in (("posdis", "place"), ("bosdis", "symbol")):
        title = f"disentanglement by {name}"
        lines.append(("", [title, _with_null(before.get(key)), _with_null(student.get(key))]))
    slopes = [_number((found.get("zipf") or {}).get("slope")) for found in (before, student)]
    lines.append(("", ["Zipf's slope", *slopes]))
    laws = [_with_null(found.get("abbreviation")) for found in (before, student)]
    lines.append(("", ["law of abbreviation", *laws]))
    kept = [
        (
            "",
            [
                f"<code>{html(kind)}</code>",
                _number((before.get("survival") or {}).get(kind), True),
                _number(share, True),
            ],
        )
        for kind, share in list((student.get("survival") or {}).items())[:22]
    ]
    lead = (
        "Topographic similarity is the rank correlation between how far tasks are apart and how far their "
        "messages are, beside what messages shuffled among the tasks give. Survival is the share of the "
        "reference's words of each kind found again in the message: what is near zero, the "
        "student learned to leave out."
    )
    return section(
        "The language",
        lead,
        grid(
            [
                card(table(["", "untrained", "trained"], lines, texts=(0,)), "Statistics"),
                card(table(["word of the reference", "untrained", "trained"], kept), "Survival"),
            ]
        ),
    )


def _number(value: Any, percent: bool = False) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value * 100:.0f} %" if percent else f"{value:.4g}"


def _similarity(found: Any) -> str:
    """Return rho with its null and p."""
    return _with_null(found and {"value": found.get("rho"), **found})


def _with_null(found: Any) -> str:
    """Return a figure with its null and p."""
    if not isinstance(found, dict) or found.get("value") is None:
        return "–"
    return f"{found['value']:.2f}<br><small>null {found['null_mean']:.2f}, p {found['p']:.3f}</small>"
