"""`psuedoptimal train program`: read the settings, make or open the run folder, start the sandbox, train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.starting import load
from trainer.cli_runs import add_train_arguments, finish, opened, processes, resumed
from trainer.config import ConfigError, dump_yaml, given_flags, resolve
from trainer.config_program import ProgramConfig, Service
from trainer.preflight import check_program
from trainer.runs import Run
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.grpo import Ended

ENGINE = "trainer.channels.program.trainer"
DEFAULT_CONFIG = Path("kolmogorov.yaml")
# What a resumed run may be told anew: where the sandbox is, how it is waited for, and how long all may take.
MAY_CHANGE = {*Service.model_fields, "max_seconds"} - {"limits"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the channel, and one flag per setting."""
    add_train_arguments(parser, "program", ProgramConfig, ["sandbox_url"], str(DEFAULT_CONFIG))
    parser.epilog = (
        "examples:\n  psuedoptimal train program --config starter-program.yaml --num-epochs 2\n"
        "  psuedoptimal train program --config starter-program.yaml --eval_data_path README.md"
    )


def command(args: argparse.Namespace) -> int:
    """Train, and print the summary. Returns 0, 1, or 128 + the signal that stopped it."""
    flags = given_flags(ProgramConfig, args)
    if args.resume:
        config = resumed(ProgramConfig, args, flags, MAY_CHANGE)
    else:
        config = resolve(ProgramConfig, args.config or [DEFAULT_CONFIG], flags)
    if args.print_config:
        print(dump_yaml(config), end="")
        return 0
    ended = start(config, resume=args.resume, unsaved=args.unsaved)
    return finish(ended, as_text, as_json=args.json)


def start(config: ProgramConfig, *, resume: Path | None = None, unsaved: Sequence[str] = ()) -> Ended:
    """Make or open the run folder, start a sandbox if there is no URL, and train. Returns how it ended.

    unsaved  settings that the run folder's config.yaml does not keep
    """
    ranks = processes(config.device)
    if ranks > 1 and not config.sandbox_url:
        raise ConfigError("several processes need a sandbox they share: give --sandbox-url")
    if ranks > 1 and not (resume or config.output_dir):
        raise ConfigError("several processes need to agree on a run folder: give --output_dir")
    check_program(config)
    unsaved = ["output_dir", *unsaved]
    with opened("program", config, new=config.output_dir, resume=resume, unsaved=unsaved) as found:
        run, checkpoint, folder = found
        return _train(config, run, folder, checkpoint)


def _train(config: ProgramConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    # A decoder has no part in this channel: a URL that is never asked keeps one from being started.
    with services(
        folder / "logs", None, ["http://127.0.0.1:9"], config.sandbox_url,
        meanwhile=ENGINE,
    ) as (_, sandbox):  # fmt: skip
        load(ENGINE)
        from trainer.channels.program.trainer import train

        return train(config.model_copy(update={"sandbox_url": sandbox}), run, folder, checkpoint)


def as_text(summary: dict[str, Any]) -> str:
    """Return a summary for a person."""
    from trainer.measure.programs import padded

    held, before, truth = summary["heldout"], summary["untrained"], summary["ground_truth"]
    lines = [
        f"{'test split, greedy':<24}{'solved':>8}{'bits/seq':>10}{'rate':>8}{'bits alone':>12}{'rate':>8}"
    ]
    keys = (
        ("accuracy", "8.3f"), ("bits_per_sequence", "10.1f"), ("compression_rate", "8.3f"),
        ("bits_alone", "12.1f"), ("rate_alone", "8.3f"),
    )  # fmt: skip
    for name, row in (("before", before), ("after", held)):
        lines.append(f"{name:<24}" + "".join(padded(row.get(key), form) for key, form in keys))
    if truth["bits_per_sequence"] is not None:
        lines.append(f"{'ground truth, shortened':<24}{1:>8.3f}{truth['bits_per_sequence']:>10.1f}")
    if truth["gap_closed"] is not None:
        by_itself = truth.get("gap_closed_alone")
        also = "" if by_itself is None else f", {by_itself:.1%} where each is sent alone"
        lines.append(f"{truth['gap_closed']:.1%} of the gap closed{also}; {held['n']} sequences")
    return "\n".join(lines)
