"""Arrays across HTTP: {dtype, shape, data}, the data base64 of little-endian values in C order.

Stdlib and pydantic only: each side makes its array from the bytes (`numpy.frombuffer`, `torch.frombuffer`).
Nothing is unpickled, and what does not fit its own shape, or is not finite, is refused (422).
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, StrictInt, model_validator
from typing_extensions import Self

from shared.wire import Wire

DType = Literal["float16", "bfloat16", "float32"]

# 64 latent messages of 128 vectors of 4096 float32 values; a service's body limit may well be lower.
MAX_BYTES = 64 * 128 * 4096 * 4
WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4}


class Tensor(Wire):
    """An array: `shape` outermost dimension first, `data` base64."""

    dtype: DType
    shape: list[StrictInt] = Field(min_length=1, max_length=4)
    data: str = Field(max_length=MAX_BYTES * 4 // 3 + 4)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        expected = _expected_bytes(self.dtype, self.shape)
        # base64 of n bytes has 4 letters per 3 bytes, the last group padded: told before it is decoded.
        if len(self.data) != (expected + 2) // 3 * 4:
            raise ValueError(f"shape {self.shape} of {self.dtype} needs {expected} bytes, got another number")
        raw = self.to_bytes()
        if len(raw) != expected:
            raise ValueError(f"shape {self.shape} of {self.dtype} needs {expected} bytes, got {len(raw)}")
        if not all_finite(self.dtype, raw):
            raise ValueError("holds a value that is infinite or not a number")
        return self

    def to_bytes(self) -> bytes:
        """Return the values' bytes, little-endian, C order; raise ValueError if the data is not base64."""
        try:
            return base64.b64decode(self.data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"the data is not base64: {error}") from None


def to_tensor(raw: bytes | bytearray | memoryview, *, dtype: DType, shape: Sequence[int]) -> Tensor:
    """Pack bytes of little-endian values in C order.

    raises  pydantic.ValidationError (a ValueError) if size and shape differ, or a value is not finite
    """
    return Tensor(dtype=dtype, shape=list(shape), data=base64.b64encode(raw).decode("ascii"))


def all_finite(dtype: DType, raw: bytes) -> bool:
    """Return whether no value of `raw` is infinite or not a number: whether no exponent is all ones.

    Works on all values at a time, as bytes: the standard library knows no bfloat16, and a loop over
    the values would hold the event loop for seconds.
    """
    width = WIDTHS[dtype]
    high = raw[width - 1 :: width]
    if dtype == "float16":
        # seeeeemm: the exponent stands in the highest byte alone.
        return 1 not in high.translate(_HALF)
    # seeeeeee emmmmmmm: its last bit is the top of the byte below.
    below = raw[width - 2 :: width].translate(_TOP_BIT)
    return int.from_bytes(high.translate(_FULL), "little") & int.from_bytes(below, "little") == 0


_HALF = bytes(byte & 0x7C == 0x7C for byte in range(256))
_FULL = bytes(byte & 0x7F == 0x7F for byte in range(256))
_TOP_BIT = bytes(byte >= 0x80 for byte in range(256))


def _expected_bytes(dtype: DType, shape: Sequence[int]) -> int:
    if any(size < 1 for size in shape):
        raise ValueError(f"shape {list(shape)}: every dimension must be at least 1")
    expected = math.prod(shape) * WIDTHS[dtype]
    if expected > MAX_BYTES:
        raise ValueError(
            f"shape {list(shape)} of {dtype} is {expected} bytes, at most {MAX_BYTES} are allowed"
        )
    return expected


def floats(tensor: Tensor) -> list[float]:
    """Return the values as Python numbers, flat, C order. For tests and small arrays."""
    raw = tensor.to_bytes()
    if tensor.dtype == "bfloat16":
        # A bfloat16 is the upper half of a float32.
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
    letter = "e" if tensor.dtype == "float16" else "f"
    return [value for (value,) in struct.iter_unpack(f"<{letter}", raw)]
