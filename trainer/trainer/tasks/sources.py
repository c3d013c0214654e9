"""Which tasks a run trains on, chooses its checkpoint by, and is measured on."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.config_text import STARTER, Data
from trainer.hub import require_dataset
from trainer.tasks.mbpp import HUB
from trainer.tasks.task import Task

SPLITS = ("train", "validation", "test")
MBPP = "mbpp"
# What hub data sets call their parts, where it is not our word.
PARTS = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
# Generated tasks have no end; with so many a run of a few hundred steps meets few of them twice.
STARTER_DEFAULT = {"train": 4000, "validation": 120, "test": 240}
# The tasks are the same for every seed of a run, so that seeds can be compared.
STARTER_SEED = 0


def load_tasks(config: Data, split: str) -> list[Task]:
    """Return the tasks of a split.

    split   train, validation or test
    raises  ConfigError if there are none, or the source cannot be read
    """
    wanted = {
        "train": config.train_tasks,
        "validation": config.validation_tasks,
        "test": config.heldout_tasks,
    }[split]
    try:
        if config.dataset == STARTER:
            return list(_generated(split, wanted or STARTER_DEFAULT[split]))
        tasks = _loaded(config.dataset, config.dataset_config, split, _stamp(config.dataset))
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"dataset={config.dataset!r}: {error}") from error
    if not tasks:
        raise ConfigError(f"dataset={config.dataset!r}: no tasks in its {split} split")
    return list(tasks[:wanted])


@functools.cache
def _generated(split: str, n: int) -> tuple[Task, ...]:
    from trainer.tasks.starter import starter_tasks

    return tuple(starter_tasks(split, n, STARTER_SEED))


@functools.cache
def _loaded(dataset: str, config: str, split: str, stamp: int) -> tuple[Task, ...]:
    """Read a data set once in a process: what is checked before a run need not be read again by it.

    stamp  changes when a file does
    """
    from trainer.tasks.rows import load_file, of_split, placed

    if Path(dataset).is_dir():
        files = ", ".join(sorted(f.name for f in Path(dataset).iterdir() if f.suffix in (".json", ".jsonl")))
        raise ConfigError(f"dataset={dataset!r}: is a folder; name a file in it ({files or 'none fits'})")
    if path := local(dataset):
        if not path.is_file():
            raise ConfigError(f"dataset={dataset!r}: no such file{_near(path.name, _beside(path))}")
        return tuple(load_file(path, split))
    if dataset != MBPP and "/" not in dataset:
        raise ConfigError(
            f"dataset={dataset!r}: no such data set{_near(dataset, [STARTER, MBPP])}; there are {STARTER}, "
            f"{MBPP}, .json and .jsonl files, and the hub's (OWNER/NAME)"
        )
    name = HUB if dataset == MBPP else dataset
    require_dataset(name)
    rows = enumerate(_from_hub(name, config), 1)
    return tuple(of_split(placed((f"row {number}", row) for number, row in rows), split))


def _stamp(dataset: str) -> int:
    path = Path(dataset)
    return path.stat().st_mtime_ns if path.is_file() else 0


def local(source: str) -> Path | None:
    """Return the file a source names, or None for a hub name."""
    path = Path(source)
    return path if path.suffix in (".json", ".jsonl") or path.is_file() else None


def _beside(path: Path) -> list[str]:
    return [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _from_hub(name: str, config: str) -> list[dict[str, Any]]:
    """Return the rows of all parts of a hub's data set; MBPP's say by their ids which part they are of.

    Another's have the part they stand in as their split, unless it has one part only, or they name theirs.
    Fields without a value are what `datasets` makes of those that a row has not.
    """
    from datasets import load_dataset

    if name == HUB:
        return [dict(row) for part in load_dataset(name, config).values() for row in part]
    parts = load_dataset(name)
    found = []
    for part, rows in parts.items():
        split = {"split": PARTS.get(part, part)} if len(parts) > 1 else {}
        found += [split | {key: value for key, value in row.items() if value is not None} for row in rows]
    return found
