"""Bit strings, and the universal codes that program_code.py is made of. A bit string is a str of 0 and 1.

Every code here is a prefix code with a reader beside its writer. Sources: Rice (1979), Elias (1975),
Huffman (1952) in canonical order.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
MAX_UNARY = 4096
MAX_WIDTH = 1025  # bits of a number by the delta code: a sign, and the largest that a program may have


class BitsError(ValueError):
    """A bit string ends too early, or is none of this code."""


class Bits:
    """Reads a bit string from its start.

    place  bits read so far
    """

    def __init__(self, bits: str) -> None:
        self.bits, self.place = bits, 0

    def take(self, n: int) -> str:
        """Return the next n bits. Raises BitsError if there are fewer."""
        end = self.place + n
        if end > len(self.bits):
            raise BitsError(f"the bits end at {len(self.bits)}, {end} are needed")
        found = self.bits[self.place : end]
        self.place = end
        return found

    def number(self, width: int) -> int:
        """Return the next `width` bits as a number, the highest bit first."""
        return int(self.take(width), 2) if width else 0

    def numbers(self, count: int, width: int) -> tuple[int, ...]:
        """Return the next `count` numbers of `width` bits each, width >= 1."""
        found = self.take(count * width)
        return tuple([int(found[at : at + width], 2) for at in range(0, len(found), width)])

    def unary(self) -> int:
        """Return how many ones come before the next zero."""
        end = self.bits.find("0", self.place)
        if end < 0 or end - self.place > MAX_UNARY:
            raise BitsError(f"no end of a unary number at bit {self.place}")
        count = end - self.place
        self.place = end + 1
        return count


def plain(value: int, width: int) -> str:
    """Return a number as `width` bits."""
    return format(value, f"0{width}b") if width else ""


def plains(values: Sequence[int], width: int) -> str:
    """Return numbers as `width` bits each, width >= 1."""
    return (f"{{:0{width}b}}" * len(values)).format(*values)


def rice(value: int, k: int) -> str:
    """Return value >= 0 by Rice's code: value >> k in unary, then its k low bits."""
    return "1" * (value >> k) + "0" + plain(value & ((1 << k) - 1), k)


def read_rice(bits: Bits, k: int) -> int:
    """Read what `rice` wrote."""
    high = bits.unary()
    return high << k | bits.number(k)


def gamma(value: int) -> str:
    """Return value >= 0 by Elias' gamma code of value + 1."""
    low = bin(value + 1)[3:]  # all bits but the highest, which is 1
    return "1" * len(low) + "0" + low


def read_gamma(bits: Bits) -> int:
    """Read what `gamma` wrote."""
    width = bits.unary()
    return (1 << width) + bits.number(width) - 1


def delta(value: int) -> str:
    """Return value >= 0 by Elias' delta code of value + 1: any size, about log2 + 2 log2 log2 bits."""
    low = bin(value + 1)[3:]
    return gamma(len(low)) + low


def read_delta(bits: Bits) -> int:
    """Read what `delta` wrote."""
    width = read_gamma(bits)
    if width > MAX_WIDTH:
        raise BitsError(f"a number of {min(width, 10**9)} bits, before bit {bits.place}")
    return (1 << width) + bits.number(width) - 1


def whole(value: int) -> str:
    """Return any whole number: 0, -1, 1, -2, 2, .. by the delta code."""
    return delta(2 * value if value >= 0 else -2 * value - 1)


def read_whole(bits: Bits) -> int:
    """Read what `whole` wrote."""
    value = read_delta(bits)
    return -(value + 1) // 2 if value % 2 else value // 2


class Huffman(Generic[S]):
    """The canonical Huffman code of a table of weights.

    codes  each symbol's bit string
    """

    def __init__(self, weights: Mapping[S, float]) -> None:
        lengths = dict.fromkeys(weights, 0)
        heap: list[tuple[float, int, list[S]]] = [(w, i, [s]) for i, (s, w) in enumerate(weights.items())]
        heapq.heapify(heap)
        serial = len(heap)
        while len(heap) > 1:
            one, two = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in one[2] + two[2]:
                lengths[symbol] += 1
            heapq.heappush(heap, (one[0] + two[0], serial, one[2] + two[2]))
            serial += 1
        self.codes: dict[S, str] = {}
        code = width = 0
        for symbol in sorted(lengths, key=lambda s: lengths[s]):
            code <<= lengths[symbol] - width
            width = lengths[symbol]
            self.codes[symbol] = plain(code, width)
            code += 1
        self._symbols = {code: symbol for symbol, code in self.codes.items()}
        self._widths = sorted(set(lengths.values()))

    def read(self, bits: Bits) -> S:
        """Read one symbol. Raises BitsError if the bits end in it."""
        for width in self._widths:
            code = bits.bits[bits.place : bits.place + width]
            if code in self._symbols:
                bits.place += len(code)
                return self._symbols[code]
        raise BitsError(f"the bits end at {len(bits.bits)}, inside of a symbol")
