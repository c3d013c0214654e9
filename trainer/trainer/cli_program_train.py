"""`psuedoptimal train program`: read the settings, make or open the run folder, start the sandbox, train."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoints import damage
from trainer.cli_train import _terminated, add_unsaved, told_how_to_go_on
from trainer.config import ConfigError, add_flags, dump_yaml, given_flags, resolve
from trainer.config_program import ProgramConfig, Service
from trainer.preflight import check_program
from trainer.runs import Run
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

DEFAULT_CONFIG = Path("kolmogorov.yaml")
# What a resumed run may be told anew: where the sandbox is, and how long it may take.
MAY_CHANGE = {*Service.model_fields, "max_seconds"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel, and one flag per setting."""
    parser.add_argument("channel", choices=["program"], help="which experiment")
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE",
                        help=f"YAML settings; may be repeated, the last wins [{DEFAULT_CONFIG}]")  # fmt: skip
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run from its last whole checkpoint"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and end")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_unsaved(parser, "sandbox_url")
    add_flags(parser, ProgramConfig)
    parser.usage = "%(prog)s program [--config FILE] [--resume RUN] [--SETTING VALUE ...]"
    parser.set_defaults(parser=parser)
    parser.epilog = (
        "examples:\n  psuedoptimal train program --config starter-program.yaml --num-epochs 2\n"
        "  psuedoptimal train program --config starter-program.yaml --eval_data_path README.md"
    )


def command(args: argparse.Namespace) -> int:
    """Train, and print the summary. Returns 0, 1, or 128 + the signal that stopped it."""
    config = resumed_config(args) if args.resume else new_config(args)
    if args.print_config:
        print(dump_yaml(config), end="")
        return 0
    ended = start(config, resume=args.resume, unsaved=args.unsaved)
    if ended.reason:
        print(f"psuedoptimal: {ended.reason}", file=sys.stderr)
    if ended.summary is not None:
        print(json.dumps(ended.summary, indent=2) if args.json else as_text(ended.summary))
    return ended.code


def new_config(args: argparse.Namespace) -> ProgramConfig:
    """Return the settings of a new run. Raises ConfigError."""
    return resolve(ProgramConfig, args.config or [DEFAULT_CONFIG], given_flags(ProgramConfig, args))


def resumed_config(args: argparse.Namespace) -> ProgramConfig:
    """Return the settings of the run to go on with; only where the sandbox is may have changed.

    raises  ConfigError if the command line changes anything else
    """
    flags = given_flags(ProgramConfig, args)
    changed = sorted(set(flags) - MAY_CHANGE | ({"config"} if args.config else set()))
    if changed:
        raise ConfigError(
            f"--resume: a run keeps its settings ({', '.join(changed)}); start a new one with "
            f"--config {args.resume}/config.yaml"
        )
    file = Run.open(args.resume).folder / "config.yaml"
    return resolve(ProgramConfig, [file], flags, variables=MAY_CHANGE)


def start(config: ProgramConfig, *, resume: Path | None = None, unsaved: Sequence[str] = ()) -> Ended:
    """Make or open the run folder, start a sandbox if there is no URL, and train. Returns how it ended.

    unsaved  settings that the run folder's config.yaml does not keep
    """
    if config.device == "cpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and not config.sandbox_url:
        raise ConfigError("several processes need a sandbox they share: give --sandbox-url")
    if ranks > 1 and not (resume or config.output_dir):
        raise ConfigError("several processes need to agree on a run folder: give --output_dir")
    check_program(config)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with _opened(config, resume, unsaved) as (run, checkpoint, folder):
            print(f"run folder: {folder}", file=sys.stderr)
            return _train(config, run, folder, checkpoint)
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(config: ProgramConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    # A decoder has no part in this channel: a URL that is never asked keeps one from being started.
    with services(folder / "logs", None, ["http://127.0.0.1:9"], config.sandbox_url) as (_, sandbox):
        from trainer.channels.program.trainer import train

        return train(config.model_copy(update={"sandbox_url": sandbox}), run, folder, checkpoint)


@contextlib.contextmanager
def _opened(
    config: ProgramConfig, resume: Path | None, unsaved: Sequence[str]
) -> Iterator[tuple[Run | None, Path | None, Path]]:
    """Give the run (None on every rank but the first), the checkpoint to go on from, and the folder.

    raises  ConfigError if another process writes to the run
    """
    damage_of = functools.partial(damage, keys=("seconds",))
    folder = resume or config.output_dir or Path("runs") / f"program-{time.strftime('%Y%m%d-%H%M%S')}"
    if int(os.environ.get("RANK", "0")) != 0:
        yield None, Run.open(resume).last_checkpoint(damage_of)[0] if resume else None, folder
        return
    if resume is None:
        print(dump_yaml(config), file=sys.stderr)
    if resume:
        run = Run.open(resume)
    else:
        saved = config.model_copy(update=dict.fromkeys(["output_dir", *unsaved]))
        run = Run.create(folder.parent, folder.name, saved)
    with run.held():
        checkpoint = run.rewind(damage_of) if resume else None
        with told_how_to_go_on(run, "program", new=resume is None):
            yield run, checkpoint, folder


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary for a person."""
    held, before, truth = summary["heldout"], summary["untrained"], summary["ground_truth"]
    lines = [f"{'test split, greedy':<24}{'solved':>8}{'bits/seq':>10}{'rate':>8}"]
    for name, row in (("before", before), ("after", held)):
        lines.append(
            f"{name:<24}{row['accuracy']:>8.3f}{row['bits_per_sequence']:>10.1f}{row['compression_rate']:>8.3f}"
        )
    if truth["bits_per_sequence"] is not None:
        lines.append(f"{'ground truth, shortened':<24}{1:>8.3f}{truth['bits_per_sequence']:>10.1f}")
    if truth["gap_closed"] is not None:
        lines.append(f"{truth['gap_closed']:.1%} of the gap closed, on {held['n']} sequences")
    return "\n".join(lines)
