"""`psuedoptimal demo`: the whole experiment in miniature, by the same verbs a full run uses.

Each seed is a run folder of its own. Training, evaluation and report are separate processes, and so are the
two services, which all of them share.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

from trainer.cli_train import new_config
from trainer.cli_verbs import Trained, closing, run_verb, seeds_of, tell_rest, terminated
from trainer.preflight import check_text
from trainer.runs import refuse_inside_run
from trainer.supervise import services

CONFIG = Path("starter-text.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add seeds, place and size."""
    parser.add_argument("--seeds", default="1", help="training seeds by comma, e.g. 1,2,3 [1]")
    parser.add_argument("--config", type=Path, default=CONFIG, help=f"settings of the runs [{CONFIG}]")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    parser.add_argument("--max-steps", type=int, help="stop earlier, to see the parts move")
    parser.add_argument("--heldout-tasks", type=int, help="measure on fewer tasks")
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    parser.epilog = "example:\n  psuedoptimal demo --seeds 1,2,3"


def command(args: argparse.Namespace) -> int:
    """Train every seed, measure all of them beside the baselines, and write the reports.

    returns  0; the code of the first part that failed; 130 after Ctrl-C
    """
    seeds = seeds_of(args.seeds)
    given = {name: getattr(args, name) for name in ("max_steps", "heldout_tasks")}
    flags = {name: value for name, value in given.items() if value is not None}
    config = new_config(flags, [args.config])
    refuse_inside_run(args.runs)
    check_text(config, 1)
    signal.signal(signal.SIGTERM, terminated)
    started, stamp = time.monotonic(), time.strftime("%Y%m%d-%H%M%S")
    students = {args.runs / f"demo-{stamp}-seed{seed}": Trained(seed) for seed in seeds}
    logs = args.runs / f"demo-{stamp}-logs"
    with services(
        logs, config.generator_model, config.decoder_url, config.sandbox_url, config.decoders
    ) as found:
        decoder, sandbox = found
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        # The services of the demo end with it: what it leaves behind does not name them.
        own = [f"{room}_url" for room in ("decoder", "sandbox") if not getattr(config, f"{room}_url")]
        unsaved = ["--unsaved", *own] if own else []
        urls = ["--decoder-url", *decoder, "--sandbox-url", *sandbox, *unsaved]
        for folder, (seed, _) in students.items():
            code = run_verb(
                "train", "text", "--config", str(args.config), "--runs", str(args.runs),
                "--name", folder.name, "--seed", str(seed), *settings, *urls, quiet=True,
            )  # fmt: skip
            if code:
                tell_rest("text", students, args, settings)
                return code
        tables = ["--json"] if args.json else []
        measured = [f"--decoder-url={url}" for url in decoder] + [f"--sandbox-url={url}" for url in sandbox]
        code = run_verb("evaluate", *map(str, students), *tables, *measured, *unsaved)
    code = code or run_verb("report", *map(str, students), quiet=args.json)
    if not code:
        closing(list(students), time.monotonic() - started)
    return code
