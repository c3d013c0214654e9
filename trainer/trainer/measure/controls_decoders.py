"""Other decoders for the same messages, which were not trained against them. torch only inside functions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trainer.config_text import STARTER, TextConfig
from trainer.supervise import Service, decoder_environment

# In a checkout; in a wheel the decoder's room brings its weights along.
_CHECKOUT = Path(__file__).resolve().parents[3] / "decoder-service" / "starter"
_WHEEL = Path(__file__).resolve().parents[2] / "decoder_service" / "starter"


class Other(NamedTuple):
    """A decoder to try messages on: its name, and the variables its service is started with."""

    name: str
    environment: dict[str, str]


def generator_folder(config: TextConfig) -> Path | None:
    """Return the folder of the run's generator; None for one on a hub, or none at all."""
    if config.generator_model in (None, STARTER):
        return next((folder for folder in (_CHECKOUT, _WHEEL) if folder.is_dir()), None)
    folder = Path(str(config.generator_model))
    return folder if (folder / "config.json").is_file() else None


def others(config: TextConfig, given: list[Path], work: Path) -> list[Other]:
    """Return the decoders to try: the run's own in other numbers, and those that are given.

    given   folders of other generators
    work    where rounded weights are put
    raises  ValueError for a folder without a model
    """
    found = []
    own = generator_folder(config)
    if own is not None:
        found.append(Other("own generator, bfloat16", {**_serving(own), "DECODER_DTYPE": "bfloat16"}))
        for bits in (8, 4):
            rounded = round_weights(own, work / f"rounded-{bits}", bits)
            found.append(Other(f"own generator, {bits}-bit weights", _serving(rounded)))
    for folder in given:
        if not (folder / "config.json").is_file():
            raise ValueError(f"--other-decoder {folder}: no config.json, so no model; name its folder")
        found.append(Other(f"other generator, {folder.name}", _serving(folder)))
    return found


def _serving(folder: Path) -> dict[str, str]:
    return {**decoder_environment(str(folder)), "DECODER_QUANTIZATION": "none"}


def round_weights(source: Path, out: Path, bits: int) -> Path:
    """Write a copy of a model whose matrices are rounded to so many bits, and return its folder.

    Each row has a scale of its own, from its largest weight; rows are rounded to the nearest of 2^bits - 1
    steps around 0. Saved as float32: the values are those of a quantised model, not its size.

    raises  ValueError for bits outside 2..16
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits={bits}: give 2 to 16")
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy2(file, out / file.name)
    most = 2 ** (bits - 1) - 1
    for file in sorted(source.glob("*.safetensors")):
        tensors = load_file(str(file))
        for name, tensor in tensors.items():
            if tensor.dim() == 2:
                scale = tensor.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
                tensors[name] = ((tensor / scale).round() * scale).contiguous()
        save_file(tensors, str(out / file.name), metadata={"format": "pt"})
    return out


@contextmanager
def decoding(other: Other, logs: Path) -> Iterator[str]:
    """Run a decoder of its own for a while, and give its URL. Raises Unavailable if it does not come up."""
    file = logs / f"decoder-{''.join(c if c.isalnum() else '-' for c in other.name)}.log"
    service = Service("decoder", file, other.environment)
    try:
        service.start()
        service.wait_ready()
        yield service.url
    finally:
        service.stop()
