"""`psuedoptimal demo`: the whole experiment in miniature, by the same verbs a full run uses.

Each seed is a run folder of its own. Training, evaluation and report are separate processes, and so are the
two services, which all of them share.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer.config import ConfigError, resolve
from trainer.config_text import TextConfig
from trainer.preflight import check_text
from trainer.runs import Run, refuse_inside_run, resume_command
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
    seeds = _seeds(args.seeds)
    flags = {name: getattr(args, name) for name in ("max_steps", "heldout_tasks") if getattr(args, name)}
    config = resolve(TextConfig, [args.config], flags)
    refuse_inside_run(args.runs)
    check_text(config, 1)
    signal.signal(signal.SIGTERM, _terminated)
    started, stamp = time.monotonic(), time.strftime("%Y%m%d-%H%M%S")
    folders = [args.runs / f"demo-{stamp}-seed{seed}" for seed in seeds]
    logs = args.runs / f"demo-{stamp}-logs"
    with services(logs, config.generator_model, config.decoder_url, config.sandbox_url) as found:
        decoder, sandbox = found
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        # The services of the demo end with it: what it leaves behind does not name them.
        own = [f"{room}_url" for room in ("decoder", "sandbox") if not getattr(config, f"{room}_url")]
        unsaved = ["--unsaved", *own] if own else []
        urls = ["--decoder-url", *decoder, "--sandbox-url", *sandbox, *unsaved]
        for seed, folder in zip(seeds, folders, strict=True):
            code = _verb(
                "train", "text", "--config", str(args.config), "--runs", str(args.runs),
                "--name", folder.name, "--seed", str(seed), *settings, *urls, quiet=True,
            )  # fmt: skip
            if code:
                _tell_rest("text", dict(zip(seeds, folders, strict=True)), seed, args, settings)
                return code
        tables = ["--json"] if args.json else []
        measured = [f"--decoder-url={url}" for url in decoder] + [f"--sandbox-url={url}" for url in sandbox]
        code = _verb("evaluate", *map(str, folders), *tables, *measured, *unsaved)
    code = code or _verb("report", *map(str, folders), quiet=args.json)
    if not code:
        _closing(folders, time.monotonic() - started)
    return code


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: give whole numbers by comma, e.g. 1,2,3") from error
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds {text!r}: each seed once, and none below 0")
    return seeds


def _verb(*argv: str, quiet: bool = False) -> int:
    """Run one verb as a process of its own; Ctrl-C reaches it through the terminal, and is waited for.

    quiet  its results go to stderr: they are a step on the way, not the demo's result
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *argv], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=sys.stderr if quiet else None,
    )  # fmt: skip
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:
            process.terminate()
            process.wait()
            raise
        return code if code >= 0 else 128 - code


def _tell_rest(
    channel: str, folders: dict[int, Path], at: int, args: argparse.Namespace, settings: list[str]
) -> None:
    """Say what is left of a demo that ended early, as commands.

    folders   the run of each seed, in their order
    at        the seed whose run ended early
    settings  flags for the seeds that were not begun
    """
    begun = [seed for seed in folders if folders[seed].is_dir()]
    rest = ",".join(str(seed) for seed in folders if seed not in begun)
    of_channel = [] if channel == "text" else [channel]
    runs = [str(folders[seed]) for seed in begun]
    left = []
    if at in begun:
        left.append(resume_command(channel, folders[at]))
    if begun:
        left += [shlex.join(["psuedoptimal", verb, *of_channel, *runs]) for verb in ("evaluate", "report")]
    if rest and begun:
        place = ["--config", str(args.config), "--runs", str(args.runs)]
        left.append(shlex.join(["psuedoptimal", "demo", *of_channel, "--seeds", rest, *place, *settings]))
    if left:
        print("\n  ".join(["what is left of the demo:", *left]), file=sys.stderr)


def _terminated(*_: object) -> None:
    """SIGTERM: end the verb at hand, then the services."""
    raise SystemExit(143)


def _closing(folders: list[Path], seconds: float) -> None:
    for folder in folders:
        found = Run(folder).read_json("summary.json")
        spent = sum(found["seconds"].values())
        print(f"{folder}: {spent:.0f} s; report: {folder / 'report.html'}", file=sys.stderr)
    print(f"all of it: {seconds:.0f} s", file=sys.stderr)
