"""`psuedoptimal report latent RUN...`: one self-contained report.html of latent runs. Only reads them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.cli_verbs import add_runs
from trainer.measure.escape import html
from trainer.measure.figures import curves, legend, smoothed, tradeoff
from trainer.measure.folder import RunFolder, read_lines, read_run
from trainer.measure.latents import by_vectors, together
from trainer.measure.page import card, grid, page, section, table
from trainer.measure.plot import Dot, Line
from trainer.measure.progress import colour_of, series
from trainer.measure.report import provenance_section, say_written

TRACKED = (
    ("Loss", "as trained", "loss"), ("Cross-entropy", "nats per supervised token", "ce"),
    ("Uncertainty-weighted KL", "T² KL", "kl"), ("Alignment", "1 - cosine", "align"),
    ("Gradient", "norm", "grad_norm"), ("Head", "relative change since the start", "moved/head"),
)  # fmt: skip
WINDOW = 5


def report_html(runs: Sequence[RunFolder]) -> str:
    """Return the whole report; every section is about all the runs."""
    names = ", ".join(run.name for run in runs)
    title = f"Latent run{'s' if len(runs) > 1 else ''} {names}"
    lead = (
        "A student turns a task into a few vectors; a frozen teacher reads them. What counts: nothing, "
        "another task's vectors and noise of the same size do worse."
    )
    body = [
        f'<h1>{html(title, limit=200)}</h1><p class="lead">{lead}</p>', controls_section(runs),
        bits_section(runs), curves_section(runs), provenance_section(runs),
        "<footer>Made by psuedoptimal report. This file loads nothing and runs no script.</footer>",
    ]  # fmt: skip
    return page(f"psuedoptimal: {title}", "".join(body))


def _lines(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    groups = by_vectors([run.evaluation for run in runs if run.evaluation.get("rows")])
    return [
        {**line, "name": line["name"] if len(groups) == 1 else f"K = {vectors}: {line['name']}"}
        for vectors, found in groups.items()
        for line in together(found)
    ]


def controls_section(runs: Sequence[RunFolder]) -> str:
    """Return the table of everything that was sent."""
    lines = _lines(runs)
    layouts = list(lines[0]["ce"]) if lines else []
    head = ("sent", "vectors", "bits", "blind pass", *(f"CE, {name}" for name in layouts), "s / message")
    rows = [
        (
            str(line["kind"]),
            [html(str(value)) for value in (
                line["name"], line["vectors"], line["bits"], line["pass_rate"],
                *(line["ce"][name] for name in layouts), line["seconds_per_message"],
            )],
        )
        for line in lines
    ]  # fmt: skip
    lead = (
        "Blind: the teacher gets the message alone, its program is judged by the sandbox. CE: nats per token "
        "of the reference, blind or after the task itself. Over several runs mean ± standard deviation."
    )
    return section("Beside its controls", lead, card(table(head, rows) if rows else ""))


def bits_section(runs: Sequence[RunFolder]) -> str:
    """Return pass rate against bits: precisions and fewer vectors."""
    dots = [
        Dot(line["name"], float(line["bits"]), line["pass_rate"].mean, colour_of(0))
        for line in _lines(runs)
        if line["kind"] == "student" and line["pass_rate"].mean == line["pass_rate"].mean
    ]
    lead = "The same trained student's messages in fewer bits a number, and cut to their first vectors."
    drawn = tradeoff(dots, title="Pass rate against bits", x_label="bits per message") if dots else ""
    return section("Bits", lead, card(drawn))


def curves_section(runs: Sequence[RunFolder]) -> str:
    """Return every term of the loss by step, with the evaluations ringed."""
    cards = []
    for title, unit, key in TRACKED:
        lines = []
        for number, run in enumerate(runs):
            points, colour = series(run, (key,)), colour_of(number)
            lines += [Line("", points, colour, "faint"), Line(run.name, smoothed(points, WINDOW), colour)]
            looks = [
                (float(row["step"]), float(row[key]))
                for row in read_lines(run.path / "evaluations.jsonl")
                if row.get(key) is not None
            ]
            lines.append(Line("", looks, colour + 1, "dash", dots=True))
        there = [line for line in lines if line.points]
        if there:
            cards.append(card(curves(there, title=title, y_label=unit), title))
    names = [(run.name, colour_of(i), "") for i, run in enumerate(runs)] if len(runs) > 1 else []
    lead = "Every logged step (faint) with its moving mean; rings are the held-out evaluations."
    return section("Step by step", lead, grid(cards) + (legend(names) if names else ""))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal report latent`."""
    parser.add_argument("channel", choices=["latent"], help="which experiment")
    add_runs(parser, "run folders, shown together")
    parser.add_argument("--output", type=Path, help="file to write [report.html in each RUN]")
    parser.add_argument("--json", action="store_true", help="print the written files as JSON")
    parser.epilog = (
        "example, after `psuedoptimal demo latent`:\n  psuedoptimal report latent runs/demo-latent-*-seed*"
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
