"""`psuedoptimal train text`: read the settings, make or open the run folder, start what is missing, train."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import RequestRefused
from trainer.checkpoints import damage
from trainer.config import ConfigError, add_flags, dump_yaml, given_flags, resolve
from trainer.config_text import Services, TextConfig
from trainer.preflight import check_text
from trainer.runs import Run, resume_command
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

DEFAULT_CONFIG = Path("psuedoptimal.yaml")
# What --debug shrinks; flags still win.
DEBUG = {
    "max_steps": 4, "train_tasks": 16, "validation_tasks": 8, "heldout_tasks": 16, "num_generations": 2,
    "max_completion_length": 128, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "example_steps": 2,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel, and one flag per setting."""
    parser.add_argument("channel", choices=["text"], help="which experiment")
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE",
                        help="YAML settings; may be repeated, the last wins [psuedoptimal.yaml]")  # fmt: skip
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run from its last whole checkpoint"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and end")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_unsaved(parser, "decoder_url", "sandbox_url")
    add_flags(parser, TextConfig)
    parser.usage = "%(prog)s text [--config FILE] [--resume RUN] [--SETTING VALUE ...]"
    parser.set_defaults(parser=parser)
    parser.epilog = (
        "examples:\n  psuedoptimal train text --config starter-text.yaml --max-steps 20\n"
        "  psuedoptimal serve decoder & psuedoptimal serve sandbox &      # for several processes\n"
        "  torchrun --nproc_per_node 2 -m trainer.cli train text --name two \\\n"
        "      --config starter-text.yaml \\\n"
        "      --decoder-url http://127.0.0.1:8001 --sandbox-url http://127.0.0.1:8002"
    )


def add_unsaved(parser: argparse.ArgumentParser, *urls: str) -> None:
    """Add --unsaved, for services that will be gone when the run is resumed or repeated."""
    parser.add_argument(
        "--unsaved", nargs="+", choices=urls, default=[],
        help="URLs to leave out of what is saved: what is resumed or repeated then starts its own services",
    )  # fmt: skip


def command(args: argparse.Namespace) -> int:
    """Train, and print the summary. Returns 0, 1, or 128 + the signal that stopped it."""
    config = resumed_config(args) if args.resume else new_config(args)
    if args.print_config:
        print(dump_yaml(config), end="")
        return 0
    ended = start(config, resume=args.resume, unsaved=args.unsaved)
    return finish(ended, as_json=args.json)


def new_config(args: argparse.Namespace) -> TextConfig:
    """Return the settings of a new run. Raises ConfigError."""
    flags = given_flags(TextConfig, args)
    files = args.config or [DEFAULT_CONFIG]
    config = resolve(TextConfig, files, flags)
    return resolve(TextConfig, files, flags, DEBUG) if config.debug else config


def resumed_config(args: argparse.Namespace) -> TextConfig:
    """Return the settings of the run to go on with; only where the services are may have changed.

    raises  ConfigError if the command line changes anything else
    """
    flags = given_flags(TextConfig, args)
    changed = sorted(set(flags) - set(Services.model_fields) | ({"config"} if args.config else set()))
    if changed:
        raise ConfigError(
            f"--resume: a run keeps its settings ({', '.join(changed)}); start a new one with "
            f"--config {args.resume}/config.yaml"
        )
    file = Run.open(args.resume).folder / "config.yaml"
    return resolve(TextConfig, [file], flags, variables=Services.model_fields)


def start(config: TextConfig, *, resume: Path | None = None, unsaved: Sequence[str] = ()) -> Ended:
    """Make or open the run folder, start the services that have no URL, and train. Returns how it ended.

    unsaved  settings that the run folder's config.yaml does not keep
    """
    if config.device == "cpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and not (config.decoder_url and config.sandbox_url):
        raise ConfigError("several processes need services they share: give --decoder-url and --sandbox-url")
    if ranks > 1 and not (resume or config.name):
        raise ConfigError("several processes need to agree on a run folder: give --name")
    check_text(config, ranks)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with _opened(config, resume, unsaved) as (run, checkpoint, folder):
            print(f"run folder: {folder}", file=sys.stderr)
            return _train(config, run, folder, checkpoint)
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(config: TextConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    with services(folder / "logs", config.generator_model, config.decoder_url, config.sandbox_url) as urls:
        from trainer.channels.text.trainer import train

        located = config.model_copy(update={"decoder_url": urls[0], "sandbox_url": urls[1]})
        return train(located, run, folder, checkpoint)


@contextlib.contextmanager
def _opened(
    config: TextConfig, resume: Path | None, unsaved: Sequence[str]
) -> Iterator[tuple[Run | None, Path | None, Path]]:
    """Give the run (None on every rank but the first), the checkpoint to go on from, and the folder.

    raises  ConfigError if another process writes to the run
    """
    main = int(os.environ.get("RANK", "0")) == 0
    damage_of = functools.partial(damage, keys=("controller", "seconds"))
    if not main:
        checkpoint = Run.open(resume).last_checkpoint(damage_of)[0] if resume else None
        yield None, checkpoint, resume or config.runs / str(config.name)
        return
    if resume is None:
        print(dump_yaml(config), file=sys.stderr)
    if resume:
        run = Run.open(resume)
    else:
        saved = config.model_copy(update=dict.fromkeys(["name", *unsaved]))
        run = Run.create(config.runs, config.name, saved, prefix="text")
    with run.held():
        checkpoint = run.rewind(damage_of) if resume else None
        with told_how_to_go_on(run, "text", new=resume is None):
            yield run, checkpoint, run.folder


@contextlib.contextmanager
def told_how_to_go_on(run: Run, channel: str, *, new: bool) -> Iterator[None]:
    """Say with an error that ends a run how to go on; of a new run without any record, leave nothing."""
    try:
        yield
    except BaseException as error:
        # A service that did not come up has left its log in the folder, and the error names it.
        refused = isinstance(error, ConfigError | RequestRefused | KeyboardInterrupt | SystemExit)
        if new and refused and run.is_blank:
            shutil.rmtree(run.folder)
            raise
        how = f"go on with: {resume_command(channel, run.folder, int(os.environ.get('WORLD_SIZE', '1')))}"
        error.add_note(how)
        if isinstance(error, SystemExit):
            print(how, file=sys.stderr)
        raise


def finish(ended: Ended, *, as_json: bool) -> int:
    """Print how a run ended; return its exit code."""
    if ended.reason:
        print(f"psuedoptimal: {ended.reason}", file=sys.stderr)
    if ended.summary is not None:
        print(json.dumps(ended.summary, indent=2) if as_json else as_text(ended.summary))
    return ended.code


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary for a person."""
    held, before = summary["heldout"], summary["untrained"]
    return "\n".join([
        f"{'test split, greedy':<20}{'pass rate':>10}{'tokens':>9}",
        f"{'untrained student':<20}{before['pass_rate']:>10.3f}{before['tokens_per_message']:>9.1f}",
        f"{'trained student':<20}{held['pass_rate']:>10.3f}{held['tokens_per_message']:>9.1f}",
        f"{held['compression_vs_untrained'] or 0:.2f} times fewer tokens on {held['n']} held-out tasks",
    ])  # fmt: skip


def _terminated(*_: object) -> None:
    """SIGTERM outside of a step: leave through every `finally`, so that no service stays behind."""
    raise SystemExit(143)
