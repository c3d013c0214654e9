"""The code of what is seldom: odd lines of the DSL, written in full, and free Python, compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from trainer.channels.program.bits import (
    Bits,
    BitsError,
    Huffman,
    delta,
    plain,
    read_delta,
    read_whole,
    whole,
)
from trainer.channels.program.program import OPERATIONS, SAME, SIGNATURES, Argument, Line, Ref
from trainer.channels.program.references import Order, read_ref, write_ref

PREDICATE_CODE = Huffman({"is_even": 2, "is_odd": 2, "is_not_zero": 3})
MAX_LIST = 1_000_000


def write_odd(line: Line, number: int, order: Order) -> str:
    """Write any line in full: numbers by a code for all numbers, lists as references or literals."""
    kinds = _kinds(line.operation, len(line.arguments))
    head = plain([SAME, *OPERATIONS].index(line.operation), 5)
    if SIGNATURES.get(line.operation) in ("L", "lI"):
        head += delta(len(line.arguments))
    return head + "".join(
        _odd_argument(a, kind, order) for a, kind in zip(line.arguments, kinds, strict=True)
    )


def _kinds(operation: str, count: int) -> str:
    kinds = SIGNATURES.get(operation, "l")
    return "l" * count if kinds == "L" else kinds[:count]


def _odd_argument(argument: Argument, kind: str, order: Order) -> str:
    match argument:
        case Ref(line=line):
            return "0" + write_ref(line, order, several=False)
        case tuple():
            return "1" + delta(len(argument)) + "".join(map(whole, argument))
        case str():
            return PREDICATE_CODE.codes[argument]
        case _:
            return whole(argument)


def read_odd(bits: Bits, number: int, order: Order) -> Line:
    index = bits.number(5)
    names = [SAME, *OPERATIONS]
    if index >= len(names):
        raise BitsError(f"no operation {index}, before bit {bits.place}")
    operation = names[index]
    signature = SIGNATURES.get(operation, "l")
    count = read_delta(bits) if signature in ("L", "lI") else len(signature)
    if count > MAX_LIST or (signature == "lI" and not 1 <= count <= 2):
        raise BitsError(f"{operation or 'output'} with {count} arguments, before bit {bits.place}")
    return Line(operation, tuple(_read_argument(bits, kind, order) for kind in _kinds(operation, count)))


def _read_argument(bits: Bits, kind: str, order: Order) -> Argument:
    match kind:
        case "l" if bits.take(1) == "0":
            return read_ref(bits, order, several=False)
        case "l":
            return tuple(read_whole(bits) for _ in _counted(read_delta(bits)))
        case "p":
            return PREDICATE_CODE.read(bits)
        case _:
            return read_whole(bits)


def _counted(n: int) -> Iterator[int]:
    if n > MAX_LIST:
        raise BitsError(f"a list of {n} numbers; {MAX_LIST} at most")
    return iter(range(n))


def write_free(source: str) -> str:
    """Write any text: its UTF-8, or that by raw DEFLATE, whichever is shorter, after its length."""
    raw = source.encode("utf-8", "surrogatepass")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(raw) + packer.flush()
    flag, data = ("1", packed) if len(packed) < len(raw) else ("0", raw)
    return flag + delta(len(data)) + "".join(plain(byte, 8) for byte in data)


def read_free(bits: Bits) -> str:
    flag, length = bits.take(1), read_delta(bits)
    whole_text = bits.take(8 * length)
    data = bytes(int(whole_text[i : i + 8], 2) for i in range(0, 8 * length, 8))
    try:
        if flag == "1":
            opened = zlib.decompressobj(-15)
            data = opened.decompress(data, MAX_LIST + 1)
            if not opened.eof:
                raise BitsError(f"free Python of over {MAX_LIST} bytes, or without an end")
        return data.decode("utf-8", "surrogatepass")
    except (zlib.error, UnicodeDecodeError) as error:
        raise BitsError(f"free Python cannot be read: {error}") from error
