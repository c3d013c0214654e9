"""`psuedoptimal demo latent`: hidden states from the starter generator, students over it, controls, a report.

Each seed is a run folder of its own. Collecting, training, evaluation and report are the verbs themselves, as
processes; one decoder and one sandbox serve them all. Two students train at a time, on a core each.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.cli_demo import _closing, _seeds, _terminated, _verb
from trainer.config import resolve
from trainer.config_latent import LatentConfig
from trainer.supervise import services

CONFIG = Path("starter-latent.yaml")
SMALL = ("max_steps", "warm_start_steps", "train_tasks", "validation_tasks", "heldout_tasks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add seeds, place and size."""
    add = parser.add_argument
    add("channel", choices=["latent"], help="which experiment")
    add("--seeds", default="1", help="training seeds by comma, e.g. 1,2,3 [1]")
    add("--config", type=Path, default=CONFIG, help=f"settings of the runs [{CONFIG}]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    for name in SMALL:
        add(f"--{name.replace('_', '-')}", type=int, help=f"in place of the settings' {name}")
    add("--at-once", type=int, default=2, help="students that train at a time [2]")
    add("--json", action="store_true", help="print the tables as JSON")
    parser.epilog = "example:\n  psuedoptimal demo latent --seeds 1,2,3"


def command(args: argparse.Namespace) -> int:
    """Collect, train every seed, measure all of them beside their controls, and write the reports.

    returns  0; the code of the first part that failed; 130 after Ctrl-C
    """
    seeds = _seeds(args.seeds)
    flags = {name: value for name in SMALL if (value := getattr(args, name)) is not None}
    config = resolve(LatentConfig, [args.config], flags)
    signal.signal(signal.SIGTERM, _terminated)
    started, stamp = time.monotonic(), time.strftime("%Y%m%d-%H%M%S")
    folders = [args.runs / f"demo-latent-{stamp}-seed{seed}" for seed in seeds]
    place = args.runs / f"demo-latent-{stamp}"
    model = config.teacher_model_name_or_path
    with services(place / "logs", model, config.decoder_url, config.sandbox_url) as (decoder, sandbox):
        hidden = place / "hidden"
        tasks = [
            f"--{name.replace('_', '-')}={getattr(config, name)}"
            for name in ("train_tasks", "validation_tasks", "heldout_tasks")
        ]
        urls = ["--decoder-url", *decoder]
        code = _verb("collect", "hidden", "--output", str(hidden), *tasks, "--decoder-url", decoder[0],
                     quiet=True)  # fmt: skip
        settings = [f"--{name}={value}" for name, value in flags.items()]
        verbs = [
            ["train", "latent", "--config", str(args.config), "--output_dir", str(folder),
             "--seed", str(seed),
             "--hf_hidden_repo", str(hidden), *settings, *urls, "--sandbox-url", *sandbox,
             "--unsaved", "decoder_url", "sandbox_url"]
            for seed, folder in zip(seeds, folders, strict=True)
        ]  # fmt: skip
        code = code or _several(verbs, args.at_once)
        tables = ["--json"] if args.json else []
        measured = [f"--decoder-url={url}" for url in decoder] + [f"--sandbox-url={url}" for url in sandbox]
        code = code or _verb("evaluate", "latent", *map(str, folders), *tables, *measured)
    code = code or _verb("report", "latent", *map(str, folders), quiet=args.json)
    if not code:
        _closing(folders, time.monotonic() - started)
    return code


def _several(verbs: Sequence[Sequence[str]], at_once: int) -> int:
    """Run verbs as processes, some at a time; return the first code that is not 0, when all have ended."""
    waiting, running = list(verbs), list[subprocess.Popen[bytes]]()
    code = 0
    try:
        while waiting or running:
            while waiting and len(running) < at_once and not code:
                argv = [sys.executable, "-m", "trainer.cli", *waiting.pop(0)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                running.append(subprocess.Popen(argv, env=environment, stdout=sys.stderr))
            for process in [each for each in running if each.poll() is not None]:
                running.remove(process)
                code = code or abs(process.returncode)
            if code:
                waiting = []
            time.sleep(0.2)
    except (KeyboardInterrupt, SystemExit):
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    return code
