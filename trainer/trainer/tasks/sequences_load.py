"""Which sequences a program run trains on, chooses its checkpoint by, and is measured on."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from trainer.channels.program.program import Program
from trainer.config import ConfigError
from trainer.config_program import GENERATED, Data, ProgramConfig
from trainer.tasks.sequences import generate
from trainer.tasks.sequences_files import WHOLE, Row, kind_of, read_sequences

# Of no sequence is the half asked for that would be shorter.
SHORT = 24
# The sequences are the same for every seed of a run, so that seeds can be compared.
DATA_SEED = 0


class Splits(NamedTuple):
    """The sequences of a run.

    truth  the generator's program for each of `heldout`; empty where it is not known
    """

    train: list[tuple[int, ...]]
    validation: list[tuple[int, ...]]
    heldout: list[tuple[int, ...]]
    truth: list[Program]


def load_splits(config: ProgramConfig) -> Splits:
    """Return the sequences of a run; what is held out is never trained on.

    raises  ConfigError if a file cannot be read, holds too few or would be left out
    """
    check_chunks(config)
    n = config.validation_sequences
    if config.eval_data_path == GENERATED:
        pairs = generate("test", config.heldout_sequences, DATA_SEED, max_length=config.max_length)
        heldout, truth = [pair.sequence for pair in pairs], [pair.program for pair in pairs]
        validation = [
            pair.sequence for pair in generate("validation", n, DATA_SEED, max_length=config.max_length)
        ]
    else:
        found = _file(config.eval_data_path, config)
        if len(found) < 2:
            raise ConfigError(
                f"eval_data_path={config.eval_data_path}: one sequence; two at least are needed"
            )
        # A file's first sequences choose the checkpoint, at most half of them; it is measured on the others.
        validation = found[: min(n, len(found) // 2)]
        heldout, truth = found[len(validation) :][: config.heldout_sequences], []
    out = {*validation, *heldout}
    if config.data_path == GENERATED:
        train = _generated(config.sequences_wanted, config.max_length, out)
    else:
        read = _file(config.data_path, config)
        train = [sequence for sequence in read if sequence not in out][: config.train_sequences]
        if not train:
            raise ConfigError(f"data_path={config.data_path}: every sequence in it is held out")
    return Splits(train, validation, heldout, truth)


def check_chunks(config: Data) -> None:
    """Raise ConfigError if a file would be cut into sequences that are too long to be taken."""
    for name in ("data_path", "eval_data_path"):
        path = getattr(config, name)
        cut = path != GENERATED and kind_of(Path(path), config.data_kind) not in WHOLE
        if cut and config.chunk > config.max_length:
            raise ConfigError(
                f"{name}={path}: would be cut into sequences of chunk={config.chunk} bytes, and those longer "
                f"than max_length={config.max_length} are left out; take --chunk {config.max_length}, or "
                f"--max-length {config.chunk}"
            )


def _generated(n: int, max_length: int, out: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return n training sequences, as many drawn with half the limit as with all of it, in turns.

    More is learned from short ones, and they are rare where long ones are allowed.
    """
    limits = sorted({min(max_length, max(SHORT, max_length // 2)), max_length})
    found: list[list[tuple[int, ...]]] = []
    for i, limit in enumerate(limits):
        share = (n + len(limits) - 1 - i) // len(limits)
        pairs = generate("train", share, DATA_SEED, max_length=limit, exclude=out.union(*found))
        found.append([pair.sequence for pair in pairs])
    return [sequence for turn in zip_longest(*found) for sequence in turn if sequence is not None]


def _file(path: str, config: Data) -> list[tuple[int, ...]]:
    found = rows_of(path, config)
    kept = list(dict.fromkeys(row.sequence for row in found if len(row.sequence) <= config.max_length))
    if not kept:
        raise ConfigError(f"{path}: every sequence is longer than max_length={config.max_length}")
    return kept


def rows_of(path: str, config: Data) -> list[Row]:
    """Return a file's rows. Raises ConfigError naming file and line of a bad one."""
    return read_sequences(Path(path), config.data_kind, chunk=config.chunk)
