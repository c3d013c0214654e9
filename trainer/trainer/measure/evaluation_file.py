"""What an evaluation notes of itself, and the file it goes to: the run's main one, or one that says what is
different. The same for the controls."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config_text import TextConfig
from trainer.measure.folder import EVALUATION, RunFolder, own_settings, read_object

# The controls of the same weights and tasks as the main evaluation's.
CONTROLS = "controls.json"
# Settings that say where services are, not what is measured.
LOCATION = ("decoder_url", "sandbox_url", "decoder_token_file", "sandbox_token_file")


def settings_of(run: Path, args: argparse.Namespace) -> TextConfig:
    """Return a run's settings with the services that the command line or the environment names.

    Where the run found its own says nothing about where they are now. Raises ConfigError.
    """
    given = {name: value for name in LOCATION if (value := getattr(args, name)) is not None}
    forgotten = {"decoder_url": None, "sandbox_url": None}
    return own_settings(TextConfig, run, given, forgotten, variables=LOCATION)


def differences(
    folder: RunFolder, own: TextConfig, config: TextConfig, args: argparse.Namespace, decoder: dict[str, Any]
) -> list[str]:
    """Return what this evaluation does otherwise than the run's main one; empty if nothing.

    own      the run's settings, `config` those of this evaluation
    decoder  who decoded
    """
    found = [] if args.checkpoint == "best" else [f"checkpoint-{args.checkpoint}"]
    if config.dataset != own.dataset:
        found.append(Path(config.dataset).stem)
    if args.split != "test":
        found.append(args.split)
    if args.n and args.n != own.heldout_tasks:
        found.append(f"n{args.n}")
    if not args.baselines:
        found.append("no-baselines")
    trained_with = folder.services.get("decoder", {}).get("name")
    if trained_with and decoder.get("name") != trained_with:
        found.append(f"decoder-{decoder.get('name')}")
    return found


def file_name(different: Sequence[str], main: str = EVALUATION) -> str:
    """Return the name of the file a measurement goes to: of its differences, in letters a file may have.

    main  where it goes without any
    """
    said = "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in different)
    return f"{Path(main).stem}-{said}.json" if said else main


def put_aside(run: Path, checkpoint: str) -> None:
    """Rename the main evaluation and the controls of a run that has gone on since, after their weights.

    checkpoint  the run's best weights now, as an evaluation names them
    """
    evaluation, controls = read_object(run / EVALUATION), read_object(run / CONTROLS)
    measured = {
        EVALUATION: str(evaluation.get("checkpoint", checkpoint)),
        CONTROLS: weights_of(controls, evaluation, checkpoint),
    }
    for file, weights in measured.items():
        if weights != checkpoint and (run / file).is_file():
            (run / file).replace(run / file_name([weights], file))


def weights_of(controls: Mapping[str, Any], evaluation: Mapping[str, Any], checkpoint: str) -> str:
    """Return which weights the controls are of, as an evaluation names them.

    evaluation  the run's main one: older controls that say only "best" are taken to be of its weights
    checkpoint  the weights where neither says
    """
    found = str(controls.get("checkpoint", checkpoint))
    return str(evaluation.get("checkpoint", checkpoint)) if found == "best" else found


def services_of(room: str, args: argparse.Namespace) -> list[str] | str:
    """Return where a service was, or that it was started for this and is gone."""
    urls: list[str] | None = getattr(args, f"{room}_url")
    return urls if urls and f"{room}_url" not in args.unsaved else "started for this evaluation"


def command_line(argv: Sequence[str], unsaved: Sequence[str] = ()) -> str:
    """Return a command as it can be repeated.

    argv     what follows `psuedoptimal`
    unsaved  flags to leave out, as settings (decoder_url): what they name will be gone
    """
    left_out = {*unsaved, "unsaved"} if unsaved else set()
    kept, dropping = ["psuedoptimal"], False
    for word in argv:
        if word.startswith("--"):
            dropping = word.partition("=")[0][2:].replace("-", "_") in left_out
        if not dropping:
            kept.append(word)
    return shlex.join(kept)
