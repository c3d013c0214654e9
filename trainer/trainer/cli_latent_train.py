"""`psuedoptimal train latent`: read the settings, make or open the run folder, start the services, train.

Every argument of transformers' TrainingArguments is a flag, under its own name; those that are settings of
ours are listed in the help, the others are passed on.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.starting import load
from trainer.cli_runs import add_train_arguments, finish, opened, processes, resumed
from trainer.config import ConfigError, dump_yaml, given_flags, resolve
from trainer.config_latent import STARTER, LatentConfig, Service
from trainer.preflight import check_trackers
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

REQUIRED = ("teacher_model_name_or_path", "student_model_name_or_path", "data_path", "hf_hidden_repo")
# What a resumed run may be told anew: where the services are.
MAY_CHANGE = frozenset(Service.model_fields) - {"max_program_tokens", "limits", "min_assurance"}
# A service that is never asked: the URL keeps one from being started.
NOBODY = ["http://127.0.0.1:9"]
ENGINE = "trainer.channels.latent.trainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel, one flag per setting, and those of TrainingArguments."""
    add_train_arguments(parser, "latent", LatentConfig, ["decoder_url", "sandbox_url"], "none: the seed's")
    for name in training_argument_names():
        parser.add_argument(
            f"--{name}", dest=f"training_argument.{name}", nargs="?", const="true", help=argparse.SUPPRESS
        )
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
    flags = _flags(args)
    config = resumed(LatentConfig, args, flags, MAY_CHANGE) if args.resume else new_config(flags, args.config)
    if args.print_config:
        print(dump_yaml(config), end="")
        return 0
    ended = start(config, resume=args.resume, unsaved=args.unsaved)
    return finish(ended, as_text, as_json=args.json)


def new_config(flags: dict[str, Any], files: Sequence[Path]) -> LatentConfig:
    """Return the settings of a new run. Raises ConfigError."""
    if not files:
        missing = [f"--{name}" for name in REQUIRED if name not in flags]
        optional = "--hf_hidden_repo"
        if missing and missing != [optional]:
            raise ConfigError(
                f"Missing required arguments: {', '.join(missing)}; or begin with "
                "--config starter-latent.yaml"
            )
    return resolve(LatentConfig, files, flags)


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


def start(config: LatentConfig, *, resume: Path | None = None, unsaved: Sequence[str] = ()) -> Ended:
    """Make or open the run folder, start the services that have no URL, and train. Returns how it ended.

    unsaved  settings that the run folder's config.yaml does not keep
    """
    ranks = processes(config.device)
    judged = config.data_path == STARTER
    if ranks > 1 and not config.teacher_in_process and not config.decoder_url:
        raise ConfigError("several processes need a teacher they share: give --decoder-url")
    if ranks > 1 and judged and not config.sandbox_url:
        raise ConfigError("several processes need a sandbox they share: give --sandbox-url")
    if ranks > 1 and not (resume or config.output_dir):
        raise ConfigError("several processes need to agree on a run folder: give --output_dir")
    check_trackers(config.report_to)
    unsaved = ["output_dir", *unsaved]
    with (
        opened("latent", config, new=config.output_dir, resume=resume, unsaved=unsaved) as opening,
        located(config, opening[2] / "logs", judged=judged, meanwhile=ENGINE) as found,
    ):
        load(ENGINE)
        from trainer.channels.latent.trainer import train

        run, checkpoint, folder = opening
        return train(found, run, folder, checkpoint)


@contextlib.contextmanager
def located(config: LatentConfig, logs: Path, *, judged: bool, meanwhile: str = "") -> Iterator[LatentConfig]:
    """Give the settings with the URLs of the services that are needed, starting those that have none.

    judged     whether programs are judged, so that a sandbox is needed
    meanwhile  a module that is imported while those that are started come up
    """
    needs_decoder = not config.teacher_in_process
    decoder = config.decoder_url if needs_decoder else NOBODY
    sandbox = config.sandbox_url if judged else NOBODY
    model = config.teacher_model_name_or_path
    with services(logs, model, decoder, sandbox, meanwhile=meanwhile) as (decoder_url, sandbox_url):
        urls = {
            "decoder_url": decoder_url if needs_decoder else None,
            "sandbox_url": sandbox_url if judged else None,
        }
        yield config.model_copy(update=urls)


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
