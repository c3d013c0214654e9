"""Latent messages in a file: safetensors, in one of the precisions of quantise.py, with who can read them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from trainer.channels.latent.quantise import Packed, Precision, packed, restored
from trainer.config import ConfigError

FORMAT = "psuedoptimal-latents/1"


class Letter(NamedTuple):
    """What a file holds: latents [N, K, D], the marks around them [D], and the teacher they were made for.

    weights_sha256  of the teacher; empty where it is not known
    """

    latents: Tensor
    bop: Tensor
    eop: Tensor
    teacher: str
    weights_sha256: str


def write_letter(file: Path, letter: Letter, precision: Precision = "fp32") -> int:
    """Write messages and return the file's bytes. Raises ValueError for int4 with an odd width."""
    from safetensors.torch import save_file

    made = packed(letter.latents, precision)
    tensors = {"latents": made.values.contiguous(), "bop": letter.bop.float(), "eop": letter.eop.float()}
    if made.scales is not None:
        tensors["scales"] = made.scales
    about = {
        "format": FORMAT, "precision": precision, "teacher": letter.teacher,
        "weights_sha256": letter.weights_sha256,
    }  # fmt: skip
    save_file(tensors, file, metadata=about)
    return file.stat().st_size


def read_letter(file: Path) -> Letter:
    """Read messages. Raises ConfigError naming what is wrong with the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as safetensors ({error})") from error
    precision = about.get("precision")
    if about.get("format") != FORMAT or precision not in get_args(Precision):
        raise ConfigError(f"{file}: no latent message; make one with `psuedoptimal latent send`")
    if not {"latents", "bop", "eop"} <= set(tensors) or tensors["latents"].ndim != 3:
        raise ConfigError(f"{file}: its tensors are not those of a latent message")
    found = restored(Packed(precision, tensors["latents"], tensors.get("scales")))
    if not bool(torch.isfinite(found).all()):
        raise ConfigError(f"{file}: holds a number that is not finite")
    marks = tensors["bop"], tensors["eop"]
    return Letter(found, *marks, about.get("teacher", ""), about.get("weights_sha256", ""))
