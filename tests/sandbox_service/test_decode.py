"""Reading answers: bytes the codec's writer would not write are refused, and nothing worse happens."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.decode import CodecError, decode
from sandbox_service.inside.codec import MAX_BYTES


@given(
    st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(CodecError):
        decode(data)


tags = st.sampled_from(
    re.findall(r"\w+", "N B i f s u b ba c l t S F d r E it dk dv di dq dec frac dt date time td x q")
)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 12) | st.text(max_size=8)
    | st.sampled_from(["0x1", "-0x0", "0x01", "nan", "0x1.8p+1", "0x1.8p+9999", "AA==", "2020-13-01",
    "1E+5", "NaN"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(
        tags, inner
    ).map(list)
    | st.tuples(
        tags,
        inner, inner, inner,
    ).map(list),
    max_leaves=30,
)  # fmt: skip


@given(trees)
def test_trees_of_known_tags_in_wrong_places_are_refused_and_nothing_else(tree: Any) -> None:
    with contextlib.suppress(CodecError):
        decode(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"1", b"[]", b'{"i":1}', b'["i",1]', b'["i","1"]', b'["i","0x01"]', b'["i","0X1"]',
        b'["i","0x1",0]',
        b'["f",1.0]', b'["f","1.0"]', b'["f","0x1p3"]', b"NaN", b'["f",NaN]', b'["B",2]', b'["B",true]',
        b'["N",1]',
        b'["s","\\ud800"]', '["s","é"]'.encode("latin-1"), b'["u","!"]', b'["b","AA="]', b'["l",["N"]]',
        b'["l",{}]',
        b'["S",[["l",[]]]]', b'["S",[["i","0x1"],["i","0x1"]]]', b'["S",[["i","0x1"],["B",1]]]',
        b'["d",[[["i","0x1"],["N"]],[["i","0x1"],["N"]]]]', b'["d",[[["l",[]],["N"]]]]', b'["d",[[["N"]]]]',
        b'["r","0x0","0x1","0x0"]', b'["frac","0x1","0x0"]', b'["dt","2020-13-01T00:00:00"]', b'["zz",1]',
        b'["x",1]', b'["x","\\ud800",1]', b'["x","a\\ndc00\\udc00",null]',
        b'["dec","1e5;"]', b'["td","0xffffffffffff","0x0","0x0"]', b'["N"] x', b'["N"]["N"]', b"[" * 100_000,
        b'["l",[' * 62 + b"]]" * 62, b'["i","0x1' + b"0" * 50_001 + b'"]',
        b'["s","' + b"a" * MAX_BYTES + b'"]',
        b'["l",[' + b",".join([b'["N"]'] * 100_001) + b"]]", b"1" * 10_000,
    ],
)  # fmt: skip
def test_bytes_the_encoder_would_not_write_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode(data)
