"""`psuedoptimal report program RUN...`: one self-contained report.html of program runs. Only reads them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.cli_verbs import add_runs
from trainer.measure.escape import html
from trainer.measure.figures import curves, legend, smoothed
from trainer.measure.folder import RunFolder, read_lines, read_run
from trainer.measure.page import badge, card, facts, grid, page, program, section, table
from trainer.measure.plot import Line, Point
from trainer.measure.progress import colour_of, series
from trainer.measure.report import provenance_section, say_written

# Title, unit, key of the steps, key of the held-out evaluations, whether it is a share.
TRACKED = (
    ("Compression rate", "bits / raw bits", "compression_rate", "compression_rate", False),
    ("Program accuracy", "share of sequences", "accuracy", "accuracy", True),
    ("Average reward", "mean over programs", "reward/mean", None, False),
    ("Policy loss", "REINFORCE surrogate", "policy_loss", None, False),
    ("Bits per byte of the right programs", "bits", "program/bits_per_byte", None, False),
    ("Entropy", "nats per token", "entropy", None, False),
)  # fmt: skip
SHOWN = 8
WINDOW = 15


def report_html(runs: Sequence[RunFolder]) -> str:
    """Return the whole report; curves show all the runs, programs the first one's."""
    names = ", ".join(run.name for run in runs)
    title = f"Program run{'s' if len(runs) > 1 else ''} {names}"
    lead = (
        "A policy writes a program for a sequence, line by line; the sandbox executes it; what counts is "
        "whether it makes exactly the sequence, and in how few bits. Every figure pays for everything."
    )
    body = [
        f'<h1>{html(title, limit=200)}</h1><p class="lead">{lead}</p>',
        summary_section(runs), curves_section(runs), evaluation_section(runs), programs_section(runs[0]),
        provenance_section(runs),
        "<footer>Made by psuedoptimal report. This file loads nothing and runs no script.</footer>",
    ]  # fmt: skip
    return page(f"psuedoptimal: {title}", "".join(body))


def summary_section(runs: Sequence[RunFolder]) -> str:
    """Return the held-out figures before and after, by run."""
    rows = []
    for run in runs:
        for name, key, kind in (("before", "untrained", "control"), ("after", "heldout", "student")):
            found = run.summary.get(key) or {}
            columns = ("n", "accuracy", "bits_per_sequence", "compression_rate", "rate_alone", "precision")
            cells = [html(f"{run.name}, {name}"), *(_cell(found.get(k)) for k in columns)]
            rows.append((kind, cells))
        truth = run.summary.get("ground_truth") or {}
        closed = truth.get("gap_closed")
        said = (
            f"ground truth, shortened ({'-' if closed is None else format(closed, '.1%')} of the gap closed)"
        )
        rows.append(("control", [html(said), "", "1", _cell(truth.get("bits_per_sequence")), "", "", ""]))
    head = ("", "sequences", "solved", "bits per sequence", "compression rate", "sent alone", "bits / gzip")
    lead = (
        "One greedy program for each held-out sequence, flags and fallback paid for: the sequences without a "
        "program joined, or, sent alone, each by itself."
    )
    return section("What it came to", lead, card(table(head, rows)))


def _cell(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    return html(str(value) if isinstance(value, int) else f"{value:.4g}")


def curves_section(runs: Sequence[RunFolder]) -> str:
    """Return every tracked metric by epoch: steps faint, their moving mean strong, held-out looks ringed."""
    cards = []
    for title, unit, key, heldout, percent in TRACKED:
        lines = []
        for i, run in enumerate(runs):
            epochs = {row["step"]: float(row["epoch"]) for row in run.metrics if row.get("epoch") is not None}
            points = [(epochs.get(int(step), step), value) for step, value in series(run, (key,))]
            colour = colour_of(i)
            lines += [
                Line("", points, colour, "faint"),
                Line(run.name if len(runs) > 1 else "sampled", smoothed(points, WINDOW), colour),
            ]
            if heldout:
                name = "" if len(runs) > 1 else "validation, greedy"
                lines.append(Line(name, _heldout(run, heldout, epochs), colour + 1, "dash", dots=True))
        drawn = curves([line for line in lines if line.points], title=title, y_label=unit, percent=percent,
                       x_label="epoch")  # fmt: skip
        cards.append(card(drawn, title))
    names = [(run.name, colour_of(i), "") for i, run in enumerate(runs)] if len(runs) > 1 else []
    lead = "Every program of every step, and the validation sequences by one greedy program each (rings)."
    return section("Epoch by epoch", lead, grid(cards) + (legend(names) if names else ""))


def _heldout(run: RunFolder, key: str, epochs: dict[int, float]) -> list[Point]:
    rows = [r for r in read_lines(run.path / "evaluations.jsonl") if r.get("split") == "validation"]
    return [(epochs.get(int(r["step"]), 0.0), float(r[key])) for r in rows if r.get(key) is not None]


def evaluation_section(runs: Sequence[RunFolder]) -> str:
    """Return the tables of `evaluate program`, with the baselines beside.

    raises  ValueError if another version, or another hand, wrote evaluation.json
    """
    cards: list[str] = []
    for run in runs:
        try:
            cards += _tables(run)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{run.path}/evaluation.json is of another version ({type(error).__name__}: {error}); "
                f"run `psuedoptimal evaluate program {run.path}`"
            ) from error
    lead = "Best of N programs, every one judged by the sandbox, beside codes that learned nothing."
    return section("Measured", lead, "".join(cards)) if cards else ""


def _tables(run: RunFolder) -> list[str]:
    cards, found = [], run.evaluation.get("rows", [])
    for name in dict.fromkeys(row["set"] for row in found):
        own = [row for row in found if row["set"] == name]
        keys = ("accuracy", "executable", "bits_per_sequence", "compression_rate", "rate_alone", "precision")
        rows = []
        for row in own:
            cells = [_cell(row["figures"].get(key)) for key in keys]
            rows.append(("student", [html(f"{run.name}, N = {row['samples']}"), *cells]))
        for other in own[0]["baselines"]:
            cells = [_cell(other["bits_per_sequence"]), _cell(other["compression_rate"])]
            rows.append(("control", [html(other["name"]), "", "", *cells, "", ""]))
        head = ("", "solved", "runs", "bits per sequence", "rate", "sent alone", "bits / gzip")
        cards.append(card(table(head, rows), name))
    return cards


def programs_section(run: RunFolder) -> str:
    """Return a few programs of the last step with the credit of their lines."""
    last = (
        [row for row in run.episodes if row.get("step") == run.episodes[-1].get("step")]
        if run.episodes
        else []
    )
    chosen: dict[Any, dict[str, Any]] = {}
    for row in sorted(last, key=lambda r: r.get("outcome") != "solved"):
        chosen.setdefault(row.get("place"), row)
    cards = [
        card(
            badge("passed" if row.get("outcome") == "solved" else row.get("outcome"))
            + program(row.get("program"))
            + facts([("bits", row.get("bits")), ("reward", row.get("reward")),
                     ("credit by line", ", ".join(f"{c:+.3f}" for c in row.get("credit", [])))])
        )
        for row in list(chosen.values())[:SHOWN]
    ]  # fmt: skip
    lead = "Sampled in the last step. The credit is each line's return less the other programs' mean there."
    return section("Programs", lead, grid(cards)) if cards else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal report program`."""
    parser.add_argument("channel", choices=["program"], help="which experiment")
    add_runs(parser, "run folder; several are shown together")
    parser.add_argument("--output", type=Path, help="file to write [report.html in each RUN]")
    parser.add_argument("--json", action="store_true", help="print the written files as JSON")
    parser.epilog = (
        "example, after `psuedoptimal demo program`:\n  psuedoptimal report program runs/demo-program-*-seed1"
    )


def command(args: argparse.Namespace) -> int:
    """Write the report; exit 2 if a folder holds no run or a file cannot be read or written."""
    try:
        runs, written = [read_run(folder) for folder in args.runs], list[Path]()
        for run in runs:
            ordered = [run, *(other for other in runs if other is not run)]
            out = args.output or run.path / "report.html"
            out.write_text(report_html(ordered), encoding="utf-8")
            written.append(out)
            if args.output:
                break
        say_written(written, as_json=args.json)
    except (OSError, ValueError) as error:
        print(f"psuedoptimal report: {error}", file=sys.stderr)
        return 2
    return 0
