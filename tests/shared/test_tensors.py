"""Arrays survive the wire bit by bit, and nothing else gets through."""

from __future__ import annotations

import base64
import random
import struct

import pytest
from pydantic import ValidationError

from shared.tensors import MAX_BYTES, WIDTHS, DType, Tensor, all_finite, floats, to_tensor

DTYPES: list[DType] = ["float16", "bfloat16", "float32"]


def packed(dtype: DType, *values: float) -> bytes:
    if dtype == "bfloat16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{len(values)}{'e' if dtype == 'float16' else 'f'}", *values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_survive_the_wire(dtype: DType) -> None:
    values = [0.0, -0.0, 1.5, -2.0, 0.25, 1024.0]
    sent = to_tensor(packed(dtype, *values), dtype=dtype, shape=[2, 3])
    got = Tensor.model_validate_json(sent.model_dump_json())
    assert got == sent
    assert floats(got) == values
    assert got.to_bytes() == packed(dtype, *values)


def test_numpy_and_torch_read_the_same_values() -> None:
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    array = numpy.arange(24, dtype=numpy.float32).reshape(2, 3, 4) / 7
    tensor = to_tensor(array.tobytes(), dtype="float32", shape=array.shape)
    back = numpy.frombuffer(tensor.to_bytes(), dtype="<f4").reshape(tensor.shape)
    assert (back == array).all()
    half = torch.tensor([1.5, -3.0, 0.1], dtype=torch.bfloat16)
    raw = half.view(torch.uint8).numpy().tobytes()
    assert floats(to_tensor(raw, dtype="bfloat16", shape=[3])) == half.float().tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_pattern_is_judged_as_the_number_it_is(dtype: DType) -> None:
    """All 65536 of a 16-bit type; for float32 the upper halves with three lower halves each."""
    for upper in range(65536):
        raw = struct.pack("<H", upper)
        exponent = 0x7C00 if dtype == "float16" else 0x7F80
        lowers = [b""] if WIDTHS[dtype] == 2 else [b"\0\0", b"\1\0", b"\xff\xff"]
        for lower in lowers:
            assert all_finite(dtype, lower + raw) is (upper & exponent != exponent)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_one_value_that_is_no_number_is_found_anywhere(dtype: DType, bad: float) -> None:
    for at in (0, 500, 999):
        values = [random.Random(at).uniform(-9, 9) for _ in range(1000)]
        assert all_finite(dtype, packed(dtype, *values))
        values[at] = bad
        with pytest.raises(ValidationError, match="not a number"):
            to_tensor(packed(dtype, *values), dtype=dtype, shape=[1000])


@pytest.mark.parametrize(
    "shape", [[3], [2, 2], [4], [], [0], [-2, -1], [1, 1, 1, 1, 2], [2**40, 2**40], [MAX_BYTES]]
)
def test_a_shape_that_does_not_fit_is_refused(shape: list[int]) -> None:
    with pytest.raises(ValidationError):
        to_tensor(packed("float32", 1.0, 2.0), dtype="float32", shape=shape)


@pytest.mark.parametrize(
    "data", ["", "AAAA", "!!!!!!!!!!!!", "AAAAAAAAAA==AA", "AAAAAAAAAAA\n", "\u00e9AAAAAAAAAA="]
)
def test_data_that_does_not_fit_is_refused(data: str) -> None:
    with pytest.raises(ValidationError):
        Tensor(dtype="float32", shape=[2], data=data)


def test_another_type_or_field_is_refused() -> None:
    data = base64.b64encode(bytes(8)).decode()
    for fields in ({"dtype": "float64", "shape": [1]}, {"dtype": "float32", "shape": [2], "pickle": "x"}):
        with pytest.raises(ValidationError):
            Tensor.model_validate({"data": data, **fields})
