"""`psuedoptimal train latent`: read the settings, make or open the run folder, start the services, train.

Every argument of transformers' TrainingArguments is a flag, under its own name; those that are settings of
ours are listed in the help, the others are passed on.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib.util
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
from trainer.config_latent import STARTER, LatentConfig, Service
from trainer.preflight import check_trackers
from trainer.runs import Run
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

REQUIRED = ("teacher_model_name_or_path", "student_model_name_or_path", "data_path", "hf_hidden_repo")
# What a resumed run may be told anew: where the services are.
MAY_CHANGE = frozenset(Service.model_fields) - {"max_program_tokens", "limits", "min_assurance"}
# A service that is never asked: the URL keeps one from being started.
NOBODY = ["http://127.0.0.1:9"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel, one flag per setting, and those of TrainingArguments."""
    parser.add_argument("channel", choices=["latent"], help="which experiment")
    parser.add_argument("--config", type=Path, action="append", default=[], metavar="FILE",
                        help="YAML settings; may be repeated, the last wins [none: the seed's]")  # fmt: skip
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with a run from its last whole checkpoint"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings and end")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_unsaved(parser, "decoder_url", "sandbox_url")
    add_flags(parser, LatentConfig)
    for name in training_argument_names():
        parser.add_argument(
            f"--{name}", dest=f"training_argument.{name}", nargs="?", const="true", help=argparse.SUPPRESS
        )
    parser.usage = "%(prog)s latent [--config FILE] [--resume RUN] [--SETTING VALUE ...]"
    parser.set_defaults(parser=parser)
    parser.epilog = (
        "examples:\n  psuedoptimal train latent --config starter-latent.yaml\n"
        "  psuedoptimal train latent --config starter-latent.yaml --output_dir latent_out --K 4"
    )


def training_argument_names() -> list[str]:
    """Return the names of TrainingArguments that are no settings of ours, without loading transformers."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return []
    source = Path(spec.origin).with_name("training_args.py").read_text(encoding="utf-8")
    shape = next(
        node for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    )  # fmt: skip
    names = [
        node.target.id for node in shape.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]  # fmt: skip
    ours = set(LatentConfig.model_fields)
    return [name for name in names if name not in ours and not name.startswith("_")]


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


def new_config(args: argparse.Namespace) -> LatentConfig:
    """Return the settings of a new run. Raises ConfigError."""
    flags = _flags(args)
    if not args.config:
        missing = [f"--{name}" for name in REQUIRED if name not in flags]
        optional = "--hf_hidden_repo"
        if missing and missing != [optional]:
            raise ConfigError(
                f"Missing required arguments: {', '.join(missing)}; or begin with "
                "--config starter-latent.yaml"
            )
    return resolve(LatentConfig, args.config, flags)


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line gave; further TrainingArguments under `training_arguments`."""
    flags = given_flags(LatentConfig, args)
    further = {
        name.partition(".")[2]: value
        for name, value in vars(args).items()
        if name.startswith("training_argument.") and value is not None
    }
    if further:
        flags["training_arguments"] = {**flags.get("training_arguments", {}), **further}
    return flags


def resumed_config(args: argparse.Namespace) -> LatentConfig:
    """Return the settings of the run to go on with; only where the services are may have changed.

    raises  ConfigError if the command line changes anything else
    """
    flags = _flags(args)
    changed = sorted(set(flags) - MAY_CHANGE | ({"config"} if args.config else set()))
    if changed:
        raise ConfigError(
            f"--resume: a run keeps its settings ({', '.join(changed)}); start a new one with "
            f"--config {args.resume}/config.yaml"
        )
    file = Run.open(args.resume).folder / "config.yaml"
    return resolve(LatentConfig, [file], flags, variables=MAY_CHANGE)


def start(config: LatentConfig, *, resume: Path | None = None, unsaved: Sequence[str] = ()) -> Ended:
    """Make or open the run folder, start the services that have no URL, and train. Returns how it ended.

    unsaved  settings that the run folder's config.yaml does not keep
    """
    if config.device == "cpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    judged = config.data_path == STARTER
    if ranks > 1 and not config.teacher_in_process and not config.decoder_url:
        raise ConfigError("several processes need a teacher they share: give --decoder-url")
    if ranks > 1 and judged and not config.sandbox_url:
        raise ConfigError("several processes need a sandbox they share: give --sandbox-url")
    if ranks > 1 and not (resume or config.output_dir):
        raise ConfigError("several processes need to agree on a run folder: give --output_dir")
    check_trackers(config.report_to)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with _opened(config, resume, unsaved) as (run, checkpoint, folder):
            print(f"run folder: {folder}", file=sys.stderr)
            with located(config, folder / "logs", judged=judged) as found:
                from trainer.channels.latent.trainer import train

                return train(found, run, folder, checkpoint)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def located(config: LatentConfig, logs: Path, *, judged: bool) -> Iterator[LatentConfig]:
    """Give the settings with the URLs of the services that are needed, starting those that have none.

    judged  whether programs are judged, so that a sandbox is needed
    """
    needs_decoder = not config.teacher_in_process
    decoder = config.decoder_url if needs_decoder else NOBODY
    sandbox = config.sandbox_url if judged else NOBODY
    model = config.teacher_model_name_or_path
    with services(logs, model, decoder, sandbox) as (decoder_url, sandbox_url):
        urls = {
            "decoder_url": decoder_url if needs_decoder else None,
            "sandbox_url": sandbox_url if judged else None,
        }
        yield config.model_copy(update=urls)


@contextlib.contextmanager
def _opened(
    config: LatentConfig, resume: Path | None, unsaved: Sequence[str]
) -> Iterator[tuple[Run | None, Path | None, Path]]:
    """Give the run (None on every rank but the first), the checkpoint to go on from, and the folder.

    raises  ConfigError if another process writes to the run
    """
    damage_of = functools.partial(damage, keys=("seconds",))
    folder = resume or config.output_dir or Path("runs") / f"latent-{time.strftime('%Y%m%d-%H%M%S')}"
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
        with told_how_to_go_on(run, "latent", new=resume is None):
            yield run, checkpoint, run.folder


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary for a person."""
    held = summary["heldout"]
    lines = [f"{'held out, n = ' + str(held['n']):<24}" + "".join(f"{name:>12}" for name in _names(summary))]
    if "blind" in held:
        lines.append(f"{'blind, pass rate':<24}" + "".join(f"{v:>12.3f}" for v in held["blind"].values()))
    for layout, row in held["ce"].items():
        lines.append(f"{'cross-entropy, ' + layout:<24}" + "".join(f"{v:>12.4f}" for v in row.values()))
    return "\n".join(lines)


def _names(summary: dict[str, Any]) -> list[str]:
    return list(next(iter(summary["heldout"]["ce"].values())))
