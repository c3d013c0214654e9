"""Latent messages in fewer bits: 32, 16, 8 or 4 a number, and how many bits a message then has.

int8 and int4 are symmetric, with one float16 scale per vector, which is counted. int4 packs two numbers in a
byte. What is measured is what `restored` gives back from the packed bytes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Precision = Literal["fp32", "fp16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
BITS: dict[Precision, int] = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}
_SCALE_BITS = 16


class Packed(NamedTuple):
    """Messages as they are sent. values [N, K, D], or [N, K, D / 2] bytes for int4; scales [N, K] or None."""

    precision: Precision
    values: Tensor
    scales: Tensor | None


def bits_per_message(vectors: int, width: int, precision: Precision) -> int:
    """Return the bits of one message, scales counted; K and D are known to both sides."""
    scales = vectors * _SCALE_BITS if precision in ("int8", "int4") else 0
    return vectors * width * BITS[precision] + scales


def packed(latents: Tensor, precision: Precision) -> Packed:
    """Pack messages [N, K, D]. Raises ValueError for int4 with an odd width."""
    match precision:
        case "fp32":
            return Packed(precision, latents.float(), None)
        case "fp16":
            return Packed(precision, latents.half(), None)
        case _:
            most = 127 if precision == "int8" else 7
            scales = (latents.abs().amax(dim=-1) / most).half()
            step = scales.float().clamp_min(torch.finfo(torch.float16).tiny)[..., None]
            whole = (latents.float() / step).round().clamp(-most, most).to(torch.int8)
            if precision == "int8":
                return Packed(precision, whole, scales)
            if whole.shape[-1] % 2:
                raise ValueError(f"int4 packs two numbers a byte: the width {whole.shape[-1]} is odd")
            nibbles = (whole + 8).to(torch.uint8)
            return Packed(precision, nibbles[..., ::2] | (nibbles[..., 1::2] << 4), scales)


def restored(message: Packed) -> Tensor:
    """Return packed messages as float32 [N, K, D]."""
    if message.scales is None:
        return message.values.float()
    values = message.values
    if message.precision == "int4":
        values = torch.stack([values & 15, values >> 4], dim=-1).flatten(-2).to(torch.int8) - 8
    return values.float() * message.scales.float()[..., None]
