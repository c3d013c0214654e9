"""`psuedoptimal compare RUN [RUN...]`: pass rate against bits per message, over channels and seeds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trainer.cli_verbs import add_runs, check_file
from trainer.pace import told_where

EXAMPLE = """examples, after `psuedoptimal demo`:
  psuedoptimal compare runs/demo-*-seed* --svg rates.svg
  psuedoptimal compare runs/demo-*-seed* --markdown >> notes.md
  psuedoptimal compare runs/demo-*-seed1 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs, and where the figure goes."""
    add = parser.add_argument
    add_runs(parser, "evaluated run folders, of any channel and seed")
    add("--svg", type=Path, metavar="FILE", help="also draw the figure there")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    form.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.epilog = EXAMPLE


def command(args: argparse.Namespace) -> int:
    """Compare and print; 2 if a run is missing something, with nothing written then."""
    from trainer.measure.compare import as_markdown, as_text, compare
    from trainer.measure.compare_figure import figure
    from trainer.measure.folder import read_run

    if args.svg:
        check_file("--svg", args.svg)
    try:
        with told_where(lambda: "nothing was written"):
            found = compare([read_run(path) for path in args.runs])
    except (ValueError, FileNotFoundError) as error:
        print(f"psuedoptimal compare: {error}", file=sys.stderr)
        return 2
    if args.svg:
        args.svg.write_text(figure(found), encoding="utf-8")
        print(f"figure: {args.svg}", file=sys.stderr)
    if args.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print(as_markdown(found) if args.markdown else as_text(found))
    return 0
