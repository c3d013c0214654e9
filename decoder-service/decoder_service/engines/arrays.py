"""torch's arrays as the wire's, and back. What is not finite does not leave."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from shared.errors import InvalidRequest
from shared.tensors import DType, to_tensor
from shared.tensors import Tensor as WireTensor

_DTYPES: dict[DType, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


def from_wire(tensor: WireTensor) -> Tensor:
    """Return the array in float32, on the CPU."""
    raw = bytearray(tensor.to_bytes())
    return torch.frombuffer(raw, dtype=_DTYPES[tensor.dtype]).reshape(tensor.shape).float()


def to_wire(tensor: Tensor, dtype: DType, field: str) -> WireTensor:
    """Pack an array of at least one value.

    field    the request's field to name when a value is not finite
    raises   InvalidRequest then
    """
    held: Any = tensor.detach().to("cpu", _DTYPES[dtype]).contiguous()
    finite_tensor(held, field)
    # Without numpy, which the decoder does not need otherwise.
    raw = ctypes.string_at(held.data_ptr(), held.nbytes)
    return to_tensor(raw, dtype=dtype, shape=list(held.shape))


def finite_tensor(tensor: Tensor, field: str) -> None:
    """Raise InvalidRequest if a value is infinite or not a number: the numbers left the type's range."""
    if not bool(tensor.isfinite().all()):
        raise InvalidRequest(
            f"{field}: the model's numbers overflow with these vectors",
            hint="scale them to the embeddings' size (rms of /v1/latents/embed) or set DECODER_DTYPE=float32",
            field=field,
        )
