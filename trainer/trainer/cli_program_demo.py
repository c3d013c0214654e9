"""`psuedoptimal demo program`: the coder, ten minutes of REINFORCE, its evaluation and a report.

Each seed is a run folder of its own. Training, evaluation and report are the verbs themselves, as processes;
one sandbox serves them all.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

from trainer.cli_verbs import Trained, closing, run_verb, seeds_of, tell_rest, terminated
from trainer.config import resolve
from trainer.config_program import ProgramConfig
from trainer.preflight import check_program
from trainer.runs import refuse_inside_run
from trainer.supervise import services

CONFIG = Path("starter-program.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add seeds, place and size."""
    add = parser.add_argument
    add("channel", choices=["program"], help="which experiment")
    add("--seeds", default="1", help="training seeds by comma, e.g. 1,2,3 [1]")
    add("--config", type=Path, default=CONFIG, help=f"settings of the runs [{CONFIG}]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    add("--max-seconds", type=float, help=f"{ProgramConfig.model_fields['max_seconds'].description}; to see "
        "the parts move, also give --heldout-sequences, and in front of the command "
        "PSUEDOPTIMAL_SCREEN_SAMPLES=0 (no screening) and PSUEDOPTIMAL_VALIDATION_SEQUENCES=16")  # fmt: skip
    add("--heldout-sequences", type=int, help="measure on fewer sequences, at the start and at the end")
    add("--samples", default="1", help="programs tried for each sequence in the evaluation, by comma [1]")
    add("--json", action="store_true", help="print the tables as JSON")
    parser.epilog = "example:\n  psuedoptimal demo program --seeds 1,2,3"


def command(args: argparse.Namespace) -> int:
    """Train every seed, measure all of them beside the baselines, and write the reports.

    returns  0; the code of the first part that failed; 130 after Ctrl-C
    """
    seeds, names = seeds_of(args.seeds), ("max_seconds", "heldout_sequences")
    flags = {name: value for name in names if (value := getattr(args, name)) is not None}
    from trainer.measure.programs_evaluate import numbers

    numbers("--samples", args.samples)
    config = resolve(ProgramConfig, [args.config], flags)
    refuse_inside_run(args.runs)
    check_program(config)
    signal.signal(signal.SIGTERM, terminated)
    started, stamp = time.monotonic(), time.strftime("%Y%m%d-%H%M%S")
    students = {args.runs / f"demo-program-{stamp}-seed{seed}": Trained(seed) for seed in seeds}
    logs = args.runs / f"demo-program-{stamp}-logs"
    with services(logs, None, ["http://127.0.0.1:9"], config.sandbox_url) as (_, sandbox):
        settings = [f"--{name}={value}" for name, value in flags.items()]
        urls = [f"--sandbox-url={url}" for url in sandbox]
        # A sandbox of the demo ends with it: what it leaves behind does not name it.
        unsaved = [] if config.sandbox_url else ["--unsaved", "sandbox_url"]
        for folder, (seed, _) in students.items():
            code = run_verb(
                "train", "program", "--config", str(args.config), "--output_dir", str(folder),
                "--seed", str(seed), *settings, "--sandbox-url", *sandbox, *unsaved, quiet=True,
            )  # fmt: skip
            if code:
                tell_rest("program", students, args, settings)
                return code
        tables = ["--json"] if args.json else []
        n = [
            "--n",
            str(config.heldout_sequences),
            "--samples",
            args.samples,
            "--max-tokens",
            str(config.max_tokens),
        ]
        code = run_verb(
            "evaluate", "program", *map(str, students), config.model_name, *n, *tables, *urls, *unsaved
        )
    code = code or run_verb("report", "program", *map(str, students), quiet=args.json)
    if not code:
        closing(list(students), time.monotonic() - started)
    return code
