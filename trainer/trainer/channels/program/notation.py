"""A sequence as its runs: what every policy is shown beside the bare numbers. Nothing is lost or added.

    7                 the number 7
    7 * 18            18 times 7
    10 .. 48          10, 11, 12, .., 48
    10 ..3 40         10, 13, 16, .., 40; a negative step falls
    { A / B }         A's and B's numbers in turn, then what the longer has left: the DSL's interleave

Runs are found from left to right, the first one that is long enough: three equal numbers, or four in a row
with one step. Where there is none, every second number is looked at in the same way, for three pairs at
least; the longer of the two goes on while what follows continues its last run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from shared import sequence_dsl as dsl

EQUAL, STEPPED = 3, 4
MAX_STEP = 25
MAX_DEPTH = 3
_TOKEN = re.compile(r"\.\.-?\d*|-?\d+|[*{}/]")


class Run(NamedTuple):
    """Numbers in a row with one step between them."""

    first: int
    step: int
    length: int

    @property
    def last(self) -> int:
        """The last number."""
        return self.first + self.step * (self.length - 1)


class Turns(NamedTuple):
    """Two sequences in turn."""

    one: list[Part]
    two: list[Part]


Part = int | Run | Turns


def parts(sequence: Sequence[int], depth: int = 0) -> Iterator[Part]:
    """Yield the runs of a sequence of whole numbers, in order.

    depth  how many braces stand around it: in MAX_DEPTH no further ones are looked for
    """
    i = 0
    while i < len(sequence):
        length = _run(sequence, i, 1)
        pairs = 0 if length or depth == MAX_DEPTH else _pairs(sequence, i)
        if length:
            yield Run(sequence[i], sequence[i + 1] - sequence[i], length)
            i += length
        elif pairs:
            end = i + 2 * pairs
            one, more = _continued(sequence[i:end:2], sequence[end:], depth + 1)
            two, more_two = _continued(sequence[i + 1 : end : 2], sequence[end:], depth + 1)
            if more < more_two:
                one = list(parts(sequence[i:end:2], depth + 1))
            else:
                two = list(parts(sequence[i + 1 : end : 2], depth + 1))
            yield Turns(one, two)
            i = end + max(more, more_two)
        else:
            yield sequence[i]
            i += 1


def numbers(part: Part) -> list[int]:
    """Return the numbers that a part stands for."""
    match part:
        case Run(first, step, length):
            return [first + step * i for i in range(length)]
        case Turns(one, two):
            return dsl.interleave(*([n for p in side for n in numbers(p)] for side in (one, two)))
        case _:
            return [part]


def write(sequence: Sequence[int]) -> str:
    """Return a sequence of whole numbers in the notation."""
    return " ".join(map(_written, parts(sequence)))


def _written(part: Part) -> str:
    match part:
        case Run(first, 0, length):
            return f"{first} * {length}"
        case Run(first, 1):
            return f"{first} .. {part.last}"
        case Run(first, step):
            return f"{first} ..{step} {part.last}"
        case Turns(one, two):
            return f"{{ {' '.join(map(_written, one))} / {' '.join(map(_written, two))} }}"
        case _:
            return str(part)


def _continued(head: Sequence[int], tail: Sequence[int], depth: int) -> tuple[list[Part], int]:
    """Return a head's parts, the last one continued into the tail, and how much of the tail that takes."""
    found: list[Part] = []
    length = 0
    for part in parts([*head, *tail], depth):
        found.append(part)
        length += len(numbers(part))
        if length >= len(head):
            return found, length - len(head)
    return found, 0


def _run(x: Sequence[int], i: int, lag: int) -> int:
    """Return how many of x[i], x[i + lag], .. are in one run, 0 if they are too few for one."""
    if i + lag >= len(x):
        return 0
    step = x[i + lag] - x[i]
    end = i + lag
    while end + lag < len(x) and x[end + lag] - x[end] == step:
        end += lag
    length = (end - i) // lag + 1
    return length if length >= (STEPPED if step else EQUAL) and abs(step) <= MAX_STEP else 0


def _pairs(x: Sequence[int], i: int) -> int:
    """Return how many pairs from x[i] on are two sequences in turn, 0 if nothing says so."""
    one, two = _run(x, i, 2), _run(x, i + 1, 2)
    if max(one, two) < STEPPED:
        return 0
    # One number more is the first of what the longer has left, not of one more pair.
    pairs = min(two if one == two + 1 else max(one, two), (len(x) - i) // 2)
    # Where a plain run begins, one of the two has come to its end, or there were no two.
    plain = next((j for j in range(i + 1, i + 2 * pairs) if _run(x, j, 1)), i + 2 * pairs)
    # The second one's last number may begin it: 5 1 6 1 7 1 1 1 is { 5 .. 7 / 1 * 5 }.
    pairs = (plain - i + (plain < i + 2 * two)) // 2
    return pairs if pairs >= EQUAL else 0


def read(text: str) -> list[int]:
    """Return the sequence that a text in the notation stands for. Raises ValueError if it is none."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != "".join(text.split()):
        raise ValueError(f"{text[:80]!r}: not this notation; see channels/program/notation.py")
    found, rest = _read(tokens)
    if rest:
        raise ValueError(f"{rest[0]!r} does not belong where it stands")
    return found


def _read(tokens: list[str]) -> tuple[list[int], list[str]]:
    found: list[int] = []
    while tokens and tokens[0] not in "/}":
        match tokens:
            case ["{", *rest]:
                one, rest = _read(rest)
                two, rest = _read(rest[1:])
                found += dsl.interleave(one, two)
                tokens = rest[1:]
            case [value, "*", count, *rest]:
                found += [int(value)] * int(count)
                tokens = rest
            case [first, step, last, *rest] if step.startswith(".."):
                by = int(step[2:] or 1)
                found += range(int(first), int(last) + (1 if by > 0 else -1), by)
                tokens = rest
            case [value, *rest]:
                found.append(int(value))
                tokens = rest
    return found, tokens
