"""`psuedoptimal report RUN [RUN...]`: one report.html that can be sent to anybody. Only reads run folders."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.cli_verbs import add_runs
from trainer.measure.escape import html
from trainer.measure.folder import EVALUATION, RunFolder, read_run
from trainer.measure.page import card, facts, grid, page, section
from trainer.measure.progress import progress_section, rooms_section
from trainer.measure.results import (
    families_section,
    figures_section,
    language_section,
    tradeoff_section,
    tradeoff_svg,
)
from trainer.measure.samples import evolution_section, examples_section

EXAMPLE = """examples, after `psuedoptimal demo`:
  psuedoptimal report runs/demo-*-seed1               # writes report.html there
  psuedoptimal report runs/demo-*-seed*               # all of them in each, its own samples first
  psuedoptimal report runs/demo-*-seed* --output seeds.html --svg tradeoff.svg"""


def report_html(runs: Sequence[RunFolder]) -> str:
    """Return the whole report.

    runs    at least one; curves and the trade-off show all of them, samples and language the first
    """
    first, names = runs[0], ", ".join(run.name for run in runs)
    title = f"Run {names}" if len(runs) == 1 else f"Runs {names}"
    lead = (
        "A student writes a message about a programming task; a frozen decoder, which never sees the task, "
        "turns it into Python; an isolated judge runs the tests. This is how short the messages became."
    )
    of_first = (
        ""
        if len(runs) == 1
        else f'<p class="lead" style="margin-top:40px">What follows is of {html(first.name)}.</p>'
    )
    body = [
        f'<h1>{html(title, limit=200)}</h1><p class="lead">{lead}</p>',
        figures_section(runs),
        tradeoff_section(runs),
        progress_section(runs),
        rooms_section(runs),
        of_first,
        evolution_section(first),
        examples_section(first),
        families_section(first),
        language_section(first),
        provenance_section(runs),
        "<footer>Made by psuedoptimal report. This file loads nothing and runs no script.</footer>",
    ]
    return page(f"psuedoptimal: {title}", "".join(body))


def provenance_section(runs: Sequence[RunFolder]) -> str:
    """Return what a reader needs to repeat the runs: commands, identities, settings."""
    cards = []
    for run in runs:
        of = f" · {run.name}" if len(runs) > 1 else ""
        evaluation = run.evaluation
        tasks = evaluation.get("tasks", {})
        cards.append(
            card(
                facts(
                    [
                        ("command", evaluation.get("command")),
                        ("when", evaluation.get("created")),
                        *((room, _where(evaluation, room)) for room in ("decoder", "sandbox")),
                        ("checkpoint", evaluation.get("checkpoint")),
                        ("tasks", tasks.get("source")),
                        ("split", tasks.get("split")),
                        ("n", tasks.get("n")),
                        ("tasks' sha256", tasks.get("sha256")),
                        ("seconds", evaluation.get("seconds")),
                    ]
                ),
                f"Evaluated by{of}",
            )
        )
        decoder = evaluation.get("decoder") or run.services.get("decoder") or {}
        sandbox = evaluation.get("sandbox") or run.services.get("sandbox") or {}
        if decoder or not run.services:  # the program channel has none
            cards.append(card(facts(_flat(decoder)), f"Decoder{of}"))
        cards.append(card(_sandbox(sandbox), f"Sandbox{of}"))
        cards.append(card(facts(_flat(run.summary)), f"Summary{of}"))
        settings = facts(_flat(run.config))
        cards.append(
            card(
                settings and f"<details><summary>every setting</summary>{settings}</details>", f"Settings{of}"
            )
        )
    lead = "The command that measured it, who decoded, who judged, and every setting of the run."
    return section("Where this comes from", lead, grid(cards))


def _where(evaluation: Mapping[str, Any], room: str) -> str | None:
    """Return where a service of an evaluation was; None if that was not noted."""
    noted = evaluation.get("services", {}).get(room)
    return ", ".join(map(str, noted)) if isinstance(noted, list) else noted


def _sandbox(found: Mapping[str, Any]) -> str:
    """Return the jail, and what it was attacked with."""
    probes = [p for p in found.get("probes") or [] if isinstance(p, dict)]
    held = [p for p in probes if p.get("held")]
    loose = ", ".join(str(p.get("name")) for p in probes if not p.get("held"))
    rest = {key: value for key, value in found.items() if key != "probes"}
    shown = [("probes held", f"{len(held)} of {len(probes)}"), ("not held", loose)] if probes else []
    return facts([*_flat(rest), *shown])


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Return nested settings as dotted names; lists stay on one line."""
    found: list[tuple[str, object]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            found += _flat(item, f"{name}.")
        elif isinstance(item, list):
            found.append((name, ", ".join(x if isinstance(x, str) else json.dumps(x) for x in item)))
        else:
            found.append((name, item))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal report`."""
    add_runs(parser, "run folder; several are shown together")
    parser.add_argument(
        "--evaluation", default=EVALUATION, metavar="NAME",
        help=f"which of the evaluations in RUN, e.g. evaluation-validation.json [{EVALUATION}]",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="file to write [report.html in each RUN]")
    parser.add_argument(
        "--svg", type=Path, help="also write pass rate against tokens as a picture of its own"
    )
    parser.add_argument("--json", action="store_true", help="print the written files as JSON")
    parser.epilog, parser.formatter_class = EXAMPLE, argparse.RawDescriptionHelpFormatter


def say_written(files: Sequence[Path], *, as_json: bool) -> None:
    """Print the files that were written: a line each, or as JSON."""
    names = [str(file) for file in files]
    print(json.dumps({"files": names}) if as_json else "\n".join(names))


def _outputs(runs: list[RunFolder], output: Path | None) -> list[tuple[Path, list[RunFolder]]]:
    """Return the files to write, each with its runs in order: in its own folder a run comes first."""
    if output:
        return [(output, runs)]
    return [(run.path / "report.html", [run, *(r for r in runs if r is not run)]) for run in runs]


def command(args: argparse.Namespace) -> int:
    """Write the report; exit 2 if a folder holds no run or a file cannot be read or written."""
    try:
        runs = [read_run(folder, evaluation=args.evaluation) for folder in args.runs]
        written = []
        for output, ordered in _outputs(runs, args.output):
            output.write_text(report_html(ordered), encoding="utf-8")
            written.append(output)
        if args.svg:
            drawn = tradeoff_svg(runs, standalone=True)
            if not drawn:
                raise ValueError(
                    f"--svg {args.svg}: nothing to draw; run `psuedoptimal evaluate {args.runs[0]}` first"
                )
            args.svg.write_text(drawn + "\n", encoding="utf-8")
            written.append(args.svg)
        say_written(written, as_json=args.json)
    except (OSError, ValueError) as error:
        print(f"psuedoptimal report: {error}", file=sys.stderr)
        return 2
    return 0
