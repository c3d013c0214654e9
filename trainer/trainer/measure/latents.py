"""`psuedoptimal evaluate latent RUN...`: latents beside controls, precisions, fewer vectors."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from trainer.cli_verbs import add_runs
from trainer.config import ConfigError
from trainer.config_latent import STARTER, LatentConfig
from trainer.measure.evaluation_file import LOCATION
from trainer.measure.folder import own_settings
from trainer.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal evaluate latent`."""
    add = parser.add_argument
    add("channel", choices=["latent"], help="which experiment")
    add_runs(parser, "run folders; several seeds are put together")
    add("--n", type=int, help="measure on so many held-out tasks (starter)")
    add("--decoder-url", "--decoder_url", action="append", metavar="URL", help="else one is started")
    add("--sandbox-url", "--sandbox_url", action="append", metavar="URL", help="else one is started")
    add("--saved", action="store_true", help="measure nothing; print what each RUN's evaluation.json holds")
    add("--json", action="store_true", help="print the tables as JSON")
    parser.epilog = "example:\n  psuedoptimal evaluate latent runs/demo-latent-*-seed*"


def command(args: argparse.Namespace) -> int:
    """Measure every run, write its evaluation.json, and print the tables. Returns 0."""
    if args.n is not None and args.n < 2:
        raise ConfigError(f"--n {args.n}: at least 2 tasks are needed for a mismatched message")
    found = []
    for folder in args.runs:
        run = Run.open(folder)
        if args.saved:
            found.append(_saved(run))
            continue
        config = own_settings(LatentConfig, run.folder, variables=LOCATION)
        update = {name: getattr(args, name) for name in ("decoder_url", "sandbox_url") if getattr(args, name)}
        if args.n:
            update["heldout_tasks"] = args.n
        found.append(evaluate(run, config.model_copy(update=update)))
    print(json.dumps(found, indent=2) if args.json else as_text(found))
    return 0


def _saved(run: Run) -> dict[str, Any]:
    file = run.folder / "evaluation.json"
    found: dict[str, Any] = run.read_json(file.name) if file.is_file() else {}
    if not found.get("rows"):
        raise ConfigError(f"{file}: holds no evaluation; make it with `psuedoptimal evaluate latent`")
    return found


def evaluate(run: Run, config: LatentConfig) -> dict[str, Any]:
    """Measure one run's best student and write evaluation.json. Raises NoAnswer: nothing is written then."""
    from trainer.channels.latent.data import load_rows
    from trainer.channels.latent.loading import trained_speaker
    from trainer.channels.latent.teacher import open_teacher, read_marks
    from trainer.channels.latent.trainer import WARM, measure_held_out
    from trainer.channels.text.student import quiet_libraries
    from trainer.cli_latent_train import located

    quiet_libraries()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="psuedoptimal-") as logs,
        located(config, Path(logs), judged=config.data_path == STARTER) as here,
    ):
        teacher = open_teacher(here)
        card = teacher.card()
        rows = load_rows(here, card.width)
        marks = read_marks(here, teacher)
        speaker = trained_speaker(here, run.best, marks)
        warm = trained_speaker(here, run.folder / WARM, marks) if config.warm_start_steps else None
        table = measure_held_out(here, speaker, rows, teacher, every=True, warm=warm)
    ids = "\n".join(row.id for row in rows.heldout)
    senders = {
        row.name: {"kind": row.kind, "passed": row.passed, "bits": [row.bits] * len(row.passed)}
        for row in table
        if row.passed is not None
    }
    found = {
        "channel": "latent", "run": run.folder.name, "seed": config.seed,
        "latent": {"vectors": config.K, "width": card.width, "bits": 32},
        "tasks": {
            "sha256": hashlib.sha256(ids.encode()).hexdigest(), "n": len(rows.heldout),
            "split": "test" if config.data_path == STARTER else "held out",
        },
        "senders": senders,
        "rows": [
            {
                "name": row.name, "kind": row.kind, "vectors": row.vectors, "bits": row.bits,
                "ce": row.ce, "pass_rate": row.pass_rate, "seconds_per_message": row.seconds,
            }
            for row in table
        ],
        "decoder": card.model_dump(mode="json"), "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    run.write_json("evaluation.json", found)
    print(f"{run.folder / 'evaluation.json'}: {found['seconds']:.0f} s", file=sys.stderr)
    return found


class Figure:
    """A figure over seeds: its mean, and its standard deviation where there is more than one."""

    def __init__(self, values: Sequence[float]) -> None:
        self.mean = fmean(values) if values else math.nan
        self.spread = stdev(values) if len(values) > 1 else None

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f}" + ("" if self.spread is None else f" ± {self.spread:.3f}")


def together(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line per sender over several runs: `ce` by layout and `pass_rate` as Figures."""
    lines = []
    for first in found[0]["rows"]:
        own = [row for run in found for row in run["rows"] if row["name"] == first["name"]]
        rates = [row["pass_rate"] for row in own if row["pass_rate"] is not None]
        lines.append({
            **{key: first[key] for key in ("name", "kind", "vectors", "bits")},
            "ce": {layout: Figure([row["ce"][layout] for row in own]) for layout in first["ce"]},
            "pass_rate": Figure(rates),
            "seconds_per_message": Figure(
                [row["seconds_per_message"] for row in own if row["seconds_per_message"] is not None]
            ),
        })  # fmt: skip
    return lines


def by_vectors(found: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Return evaluations by their students' number of vectors, ascending."""
    numbers = sorted({run["latent"]["vectors"] for run in found})
    return {number: [run for run in found if run["latent"]["vectors"] == number] for number in numbers}


class Margin(NamedTuple):
    """How far a student's cross-entropy is below the control that comes nearest, over the same seeds.

    control  the nearest control; gap: of the means, nats; spread: the larger standard deviation of the two
    """

    control: str
    gap: float
    spread: float


def margin(lines: Sequence[Mapping[str, Any]], layout: str) -> Margin | None:
    """Return the margin in a layout; None for a single seed or without controls."""
    own = next(line["ce"][layout] for line in lines if line["name"] == "student")
    controls = [(line["name"], line["ce"][layout]) for line in lines if line["kind"] == "control"]
    if not controls or own.spread is None:
        return None
    name, nearest = min(controls, key=lambda each: each[1].mean)
    return Margin(name, nearest.mean - own.mean, max(own.spread, nearest.spread))


def as_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of one run, or of several seeds as mean ± standard deviation; one for each K.

    Several K end in a table of their students side by side.
    """
    groups = by_vectors(found)
    parts = [_table(runs) for runs in groups.values()]
    if len(groups) > 1:
        parts.append(_sweep(list(groups.values())))
    return "\n\n".join(parts)


def _table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = together(found)
    layouts = list(lines[0]["ce"])
    head = f"{'sent':<28}{'vectors':>8}{'bits':>8}{'pass rate':>16}" + "".join(
        f"{'CE ' + name:>18}" for name in layouts
    )
    body = [
        f"{line['name']:<28}{line['vectors']:>8}{line['bits']:>8}{line['pass_rate']!s:>16}"
        + "".join(f"{line['ce'][name]!s:>18}" for name in layouts)
        for line in lines
    ]
    told = [
        f"CE {layout}: {near.gap:.3f} below the nearest control ({near.control}); the larger standard "
        f"deviation over seeds is {near.spread:.3f}"
        for layout in layouts
        if (near := margin(lines, layout)) is not None
    ]
    runs = f"{len(found)} seeds, mean ± standard deviation; " if len(found) > 1 else ""
    return "\n".join([f"{runs}{found[0]['tasks']['n']} held-out conversations", head, *body, *told])


def _sweep(groups: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return the students of each K in every precision: bits a message, pass rate, cross-entropy."""
    layout = next(iter(groups[0][0]["rows"][0]["ce"]))
    head = f"{'students of K':<16}{'seeds':>6}{'precision':>11}{'bits':>8}{'pass rate':>16}"
    body = [
        f"{line['vectors']:<16}{len(runs):>6}{line['name'].partition(' ')[2] or 'fp32':>11}{line['bits']:>8}"
        f"{line['pass_rate']!s:>16}{line['ce'][layout]!s:>18}{line['seconds_per_message']!s:>18}"
        for runs in groups
        for line in together(runs)
        if line["kind"] == "student" and "first" not in line["name"]
    ]
    return "\n".join([head + f"{'CE ' + layout:>18}{'s / message':>18}", *body])
