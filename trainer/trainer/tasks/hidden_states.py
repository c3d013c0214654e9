"""Stored hidden states by id: a data set of the hub, or a folder of save_to_disk, with or without splits.

Example record: {"task_id": "train-000001", "hidden_state": [L, H] floats, "plan": "Step 1: ..."}
`id` in the place of `task_id` does as well; `plan` may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import ConfigError

_NAMED = 5


class HiddenStates:
    """A data set of hidden states, looked up by id; nothing of it is read before it is asked for."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name, self._data = name, dataset
        keys = [key for key in ("id", "task_id") if key in dataset.column_names]
        if not keys or "hidden_state" not in dataset.column_names:
            raise ConfigError(
                f"hf_hidden_repo={name!r}: has {', '.join(dataset.column_names)}; needed are task_id (or id) "
                "and hidden_state"
            )
        self._places: dict[str, int] = {}
        for key in keys:
            for place, value in enumerate(dataset[key]):
                if value is not None:
                    self._places.setdefault(str(value), place)

    def __len__(self) -> int:
        return len(self._data)

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that have no record."""
        return [name for name in ids if name not in self._places]

    def require(self, ids: Sequence[str], data_path: str) -> None:
        """Raise ConfigError naming conversations without a record."""
        absent = self.missing(ids)
        if absent:
            shown = ", ".join(map(repr, absent[:_NAMED])) + (", ..." if len(absent) > _NAMED else "")
            raise ConfigError(
                f"hf_hidden_repo={self.name!r}: {len(absent)} of the {len(ids)} ids of {data_path} have no "
                f"hidden_state: {shown}; collect them (`psuedoptimal collect hidden`) or remove these rows"
            )

    def plan(self, name: str) -> str:
        """Return a record's plan; empty where there is none."""
        row = self._data[self._places[name]]
        return str(row.get("plan") or "")

    def states(self, name: str, vectors: int, width: int) -> NDArray[np.float32]:
        """Return a record's first K states, those of a shorter plan repeated to K: [K, H] float32.

        vectors  K
        width    H, the teacher's
        raises   ConfigError naming the record if it is not [L, H], L >= 1, of finite numbers
        """
        where = f"hf_hidden_repo={self.name!r}, id {name!r}"
        try:
            found = np.asarray(self._data[self._places[name]]["hidden_state"], dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{where}: hidden_state is no matrix ({error})") from error
        if found.ndim != 2 or not len(found) or found.shape[1] != width:
            raise ConfigError(
                f"{where}: hidden_state has shape {list(found.shape)}, needed is [L, {width}], as wide as "
                "the teacher; collect it with this teacher"
            )
        if not np.isfinite(found).all():
            raise ConfigError(f"{where}: hidden_state holds a value that is not finite")
        return found[np.arange(vectors) % len(found)]


def load_hidden_states(name: str) -> HiddenStates:
    """Open a data set of hidden states; of one with splits, all of them.

    name    a folder of save_to_disk, or a data set of the hub
    raises  ConfigError if it is none
    """
    from datasets import DatasetDict, concatenate_datasets, load_dataset, load_from_disk

    local = Path(name).exists()
    try:
        found = load_from_disk(name) if local else load_dataset(name)
    except (OSError, ValueError, ConnectionError) as error:
        hint = "it must be a folder of Dataset.save_to_disk or DatasetDict.save_to_disk" if local else (
            "give a folder that is here, or a data set's name on the hub"
        )  # fmt: skip
        raise ConfigError(f"hf_hidden_repo={name!r}: cannot be opened ({error}); {hint}") from error
    if isinstance(found, DatasetDict):
        found = concatenate_datasets(list(found.values()))
    return HiddenStates(name, found)
