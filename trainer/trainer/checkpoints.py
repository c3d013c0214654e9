"""Whether what a run goes on from is undamaged: every file there, whole, readable, and every number finite.
And how a folder of weights takes another's place.

Does not find bits that flipped into other finite numbers. Imports torch only when it is called.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.runs import COMPLETE, files_of

TRAINER_STATE = "trainer_state.json"
# What torch.save has written, by us or by transformers; training_args.bin is never read back.
PICKLED = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "pytorch_model*.bin", "adapter_model*.bin")


def damage(checkpoint: Path, keys: Sequence[str] = ()) -> str:
    """Return what keeps a run from going on from a checkpoint, naming the file; empty if nothing does.

    keys  what our own state in complete.json must hold, an object each
    """
    state = _json(checkpoint / COMPLETE)
    sizes = state.get("files", {}) if isinstance(state, dict) else None
    if not isinstance(sizes, dict) or not all(isinstance(state.get(key), dict) for key in keys):
        return f"{checkpoint / COMPLETE}: not the JSON object it was written as"
    there = files_of(checkpoint)
    for name, size in sizes.items():
        if there.get(name) != size:
            return f"{checkpoint / name}: {there.get(name, 0)} bytes where {size} were written"
    steps = _json(checkpoint / TRAINER_STATE)
    if not isinstance(steps, dict) or f"checkpoint-{steps.get('global_step')}" != checkpoint.name:
        return f"{checkpoint / TRAINER_STATE}: not that of this step"
    return weights_damage(checkpoint) or next(filter(None, map(_pickle_damage, _pickled(checkpoint))), "")


def weights_damage(folder: Path) -> str:
    """Return what is wrong with a folder's JSON and safetensors files, naming one; empty if nothing is."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.json")):
        if _json(file) is None:
            return f"{file}: cannot be read as JSON"
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - it is no mapping
                    if not _is_finite(weights.get_tensor(name)):
                        return f"{file}: {name} is not finite"
        except (SafetensorError, OSError) as error:
            return f"{file}: cannot be read ({error})"
    return ""


def _pickled(folder: Path) -> Iterator[Path]:
    for pattern in PICKLED:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _pickle_damage(file: Path) -> str:
    import torch
    from transformers.trainer_pt_utils import safe_globals

    try:
        with safe_globals():  # type: ignore[no-untyped-call]
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        return (
            f"{file}: cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )
    return "" if all(map(_is_finite, _tensors(found))) else f"{file}: holds numbers that are not finite"


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _is_finite(tensor: Any) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _json(file: Path) -> Any:
    """Return a JSON file's value; None where there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def replace_folder(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`, which is moved aside first: no call replaces a folder."""
    earlier = old.with_name(f"{old.name}.old")
    shutil.rmtree(earlier, ignore_errors=True)
    if old.exists():
        old.rename(earlier)
    new.rename(old)
    shutil.rmtree(earlier, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Undo a replacement that was killed between its two renames; do nothing if there was none."""
    earlier = folder.with_name(f"{folder.name}.old")
    if earlier.is_dir() and not folder.exists():
        earlier.rename(folder)
