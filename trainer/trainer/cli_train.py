"""`psuedoptimal train text`: read the settings, make or open the run folder, start what is missing, train."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.starting import load
from trainer.channels.text.exchange import introduce
from trainer.cli_runs import add_train_arguments, finish, opened, processes, resumed
from trainer.config import ConfigError, dump_yaml, given_flags, resolve
from trainer.config_text import Services, TextConfig
from trainer.preflight import check_text
from trainer.runs import Run
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

ENGINE = "trainer.channels.text.trainer"
DEFAULT_CONFIG = Path("psuedoptimal.yaml")
# What a resumed run may be told anew: where the services are and how they are waited for, not how they judge.
MAY_CHANGE = frozenset(Services.model_fields) - {
    "max_program_tokens", "generator_temperature", "min_assurance", "limits",
}  # fmt: skip
# What `debug` shrinks: it beats files; variables and flags beat it.
DEBUG = {
    "max_steps": 4, "train_tasks": 16, "validation_tasks": 8, "heldout_tasks": 16, "num_generations": 2,
    "max_completion_length": 128, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "example_steps": 2,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel, and one flag per setting."""
    add_train_arguments(parser, "text", TextConfig, ["decoder_url", "sandbox_url"], str(DEFAULT_CONFIG))
    parser.epilog = (
        "examples:\n  psuedoptimal train text --config starter-text.yaml --max-steps 20\n"
        "  psuedoptimal serve decoder & psuedoptimal serve sandbox &      # for several processes\n"
        "  torchrun --nproc_per_node 2 -m trainer.cli train text --name two \\\n"
        "      --config starter-text.yaml \\\n"
        "      --decoder-url http://127.0.0.1:8001 --sandbox-url http://127.0.0.1:8002"
    )


def command(args: argparse.Namespace) -> int:
    """Train, and print the summary. Returns 0, 1, or 128 + the signal that stopped it."""
    flags = given_flags(TextConfig, args)
    if args.resume:
        config = resumed(TextConfig, args, flags, MAY_CHANGE)
    else:
        config = new_config(flags, args.config or [DEFAULT_CONFIG])
    if args.print_config:
        print(dump_yaml(config), end="")
        return 0
    ended = start(config, resume=args.resume, unsaved=args.unsaved)
    return finish(ended, as_text, as_json=args.json)


def new_config(flags: dict[str, Any], files: Sequence[Path]) -> TextConfig:
    """Return the settings of a new run: what `debug` made of them, without it, so that they are read back.

    raises  ConfigError
    """
    config = resolve(TextConfig, files, flags)
    return resolve(TextConfig, files, {**flags, "debug": False}, DEBUG) if config.debug else config


def start(config: TextConfig, *, resume: Path | None = None, unsaved: Sequence[str] = ()) -> Ended:
    """Make or open the run folder, start the services that have no URL, and train. Returns how it ended.

    unsaved  settings that the run folder's config.yaml does not keep
    """
    ranks = processes(config.device)
    if ranks > 1 and not (config.decoder_url and config.sandbox_url):
        raise ConfigError("several processes need services they share: give --decoder-url and --sandbox-url")
    if ranks > 1 and not (resume or config.name):
        raise ConfigError("several processes need to agree on a run folder: give --name")
    check_text(config, ranks)
    new = config.runs / config.name if config.name else None
    with opened(
        "text", config, new=new, resume=resume, unsaved=["name", *unsaved], root=config.runs,
        keys=("controller", "seconds"),
    ) as (run, checkpoint, folder):  # fmt: skip
        return _train(config, run, folder, checkpoint)


def _train(config: TextConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    named, wanted = config.decoder_url or [], config.decoders
    if run is not None and named and wanted not in (1, len(named)):
        print(f"decoders={wanted} starts none: decoder_url names those that are asked", file=sys.stderr)
    with services(
        folder / "logs", config.generator_model, config.decoder_url, config.sandbox_url, config.decoders,
        meanwhile=ENGINE,
    ) as urls:  # fmt: skip
        located = config.model_copy(update={"decoder_url": urls[0], "sandbox_url": urls[1]})
        introduce(located, run)
        load(ENGINE)
        from trainer.channels.text.trainer import train

        return train(located, run, folder, checkpoint)


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary for a person."""
    held, before = summary["heldout"], summary["untrained"]
    return "\n".join([
        f"{'test split, greedy':<20}{'pass rate':>10}{'tokens':>9}",
        f"{'untrained student':<20}{before['pass_rate']:>10.3f}{before['tokens_per_message']:>9.1f}",
        f"{'trained student':<20}{held['pass_rate']:>10.3f}{held['tokens_per_message']:>9.1f}",
        f"{held['compression_vs_untrained'] or 0:.2f} times fewer tokens on {held['n']} held-out tasks",
    ])  # fmt: skip
