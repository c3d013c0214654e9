"""What the train verbs of all channels share: their flags, the run folder they open, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared.errors import RequestRefused
from trainer.checkpoints import damage
from trainer.config import ConfigError, Section, add_flags, dump_yaml
from trainer.measure.folder import own_settings
from trainer.runs import NothingToLearn, Run, resume_command

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

Settings = TypeVar("Settings", bound=Section)


def add_train_arguments(
    parser: argparse.ArgumentParser, channel: str, settings: type[Section], urls: Sequence[str], begins: str
) -> None:
    """Add the channel, where settings come from, and one flag per setting.

    urls    settings that name services
    begins  what a run without --config begins with, for the help
    """
    add = parser.add_argument
    add(
        "channel",
        type=_only(channel),
        metavar="{text,program,latent}",
        help="which experiment: it comes first",
    )
    add("--config", type=Path, action="append", default=[], metavar="FILE",
        help=f"YAML settings; may be repeated, the last wins [{begins}]")  # fmt: skip
    add(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with a run from its last whole checkpoint; a finished one is not prolonged",
    )
    add("--print-config", action="store_true", help="print the resolved settings and end")
    add("--json", action="store_true", help="print the summary as JSON")
    add_unsaved(parser, *urls)
    add_flags(parser, settings)
    parser.usage = f"%(prog)s {channel} [--config FILE] [--resume RUN] [--SETTING VALUE ...]"
    parser.set_defaults(parser=parser)


def _only(channel: str) -> Callable[[str], str]:
    """Return the type of a verb's first word, where the word has chosen among the verb's modules before."""

    def take(word: str) -> str:
        if word != channel:
            raise argparse.ArgumentTypeError(f"{word!r}: take text, program or latent, right behind the verb")
        return word

    return take


def add_unsaved(parser: argparse.ArgumentParser, *urls: str) -> None:
    """Add --unsaved, for services that will be gone when the run is resumed or repeated."""
    parser.add_argument(
        "--unsaved", nargs="+", choices=urls, default=[],
        help="URLs to leave out of what is saved: what is resumed or repeated then starts its own services",
    )  # fmt: skip


def resumed(
    settings: type[Settings], args: argparse.Namespace, flags: dict[str, Any], may_change: Collection[str]
) -> Settings:
    """Return the settings of the run to go on with.

    may_change  settings that the command line or a variable may give anew
    raises      ConfigError if there is no run, or the command line changes any other
    """
    run = Run.open(args.resume)
    changed = sorted(set(flags) - set(may_change) | ({"config"} if args.config else set()))
    if changed:
        raise ConfigError(
            f"--resume: a run keeps its settings ({', '.join(changed)}); start a new one with "
            f"--config {args.resume}/config.yaml"
        )
    return own_settings(settings, run.folder, flags, variables=may_change)


def processes(device: str) -> int:
    """Return how many processes train together, having told torch and tokenizers what it means for them.

    device  the setting; "cpu" hides the GPUs
    """
    if device == "cpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def opened(
    channel: str, config: Section, *, new: Path | None, resume: Path | None, unsaved: Sequence[str],
    root: Path = Path("runs"), keys: Sequence[str] = ("seconds",),
) -> Iterator[tuple[Run | None, Path | None, Path]]:  # fmt: skip
    """Give the run (None on every rank but the first), the checkpoint to go on from, and the folder.

    new      folder of a new run; None makes one up in `root`
    unsaved  settings that its config.yaml does not keep
    keys     what a checkpoint's state must hold to be whole
    raises   ConfigError if another process writes to the run
    """
    damage_of = functools.partial(damage, keys=keys)
    folder = resume or new or root / f"{channel}-{time.strftime('%Y%m%d-%H%M%S')}"
    with _terminable():
        if int(os.environ.get("RANK", "0")) != 0:
            yield None, Run.open(resume).last_checkpoint(damage_of)[0] if resume else None, folder
            return
        if resume:
            run = Run.open(resume)
        else:
            print(dump_yaml(config), file=sys.stderr)
            run = Run.create(folder.parent, folder.name, config.model_copy(update=dict.fromkeys(unsaved)))
        with run.held():
            checkpoint = run.rewind(damage_of) if resume else None
            with told_how_to_go_on(run, channel, new=resume is None):
                print(f"run folder: {folder}", file=sys.stderr)
                yield run, checkpoint, folder


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
        if isinstance(error, NothingToLearn):
            raise
        how = f"go on with: {resume_command(channel, run.folder, int(os.environ.get('WORLD_SIZE', '1')))}"
        error.add_note(how)
        if isinstance(error, SystemExit):
            print(how, file=sys.stderr)
        raise


def finish(ended: Ended, as_text: Callable[[dict[str, Any]], str], *, as_json: bool) -> int:
    """Print how a run ended; return its exit code."""
    if ended.reason:
        print(f"psuedoptimal: {ended.reason}", file=sys.stderr)
    if ended.summary is not None:
        print(json.dumps(ended.summary, indent=2) if as_json else as_text(ended.summary))
    return ended.code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Leave through every `finally` on a SIGTERM outside of a step, so that no service stays behind."""

    def terminated(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
