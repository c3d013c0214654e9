"""Which tasks a run trains on, chooses its checkpoint by, and is measured on."""

from __future__ import annotations

from pathlib import Path

from trainer.config import ConfigError
from trainer.config_text import STARTER, Data
from trainer.tasks.task import Task

SPLITS = ("train", "validation", "test")
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
    if config.dataset == STARTER:
        from trainer.tasks.starter import starter_tasks

        return starter_tasks(split, wanted or STARTER_DEFAULT[split], STARTER_SEED)
    from trainer.tasks.mbpp import load_mbpp

    try:
        tasks = load_mbpp(config.dataset, config.dataset_config, split)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"dataset={config.dataset!r}: {error}") from error
    if not tasks:
        raise ConfigError(f"dataset={config.dataset!r}: no tasks in its {split} split")
    return tasks[:wanted]


def local(source: str) -> Path | None:
    """Return the file a source names, or None for a hub name."""
    path = Path(source)
    return path if path.suffix in (".json", ".jsonl") or path.is_file() else None
