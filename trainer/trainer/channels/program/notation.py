"""A sequence as its runs: what every policy is shown beside the bare numbers. Nothing is lost or added.

    7                 the number 7
    7 * 18            18 times 7
    10 .. 48          10, 11, 12, .., 48
    10 ..3 40         10, 13, 16, .., 40; a negative step falls
    { A / B }         A's and B's numbers in turn; both have as many

Runs are found from left to right, the first one that is long enough: three equal numbers, or four in a row
with one step. Where there is none, every second number is looked at in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

EQUAL, STEPPED = 3, 4
MAX_STEP = 25
MAX_DEPTH = 3
_TOKEN = re.compile(r"\.\.-?\d*|-?\d+|[*{}/]")


def write(sequence: Sequence[int], depth: int = 0) -> str:
    """Return a sequence of whole numbers in the notation."""
    return " ".join(_parts(sequence, depth))


def _parts(x: Sequence[int], depth: int) -> Iterator[str]:
    i = 0
    while i < len(x):
        length = _run(x, i, 1)
        pairs = 0 if length or depth == MAX_DEPTH else _pairs(x, i)
        if length:
            yield _written(x[i], x[i + 1] - x[i], x[i + length - 1], length)
        elif pairs:
            length = 2 * pairs
            even, odd = x[i : i + length : 2], x[i + 1 : i + length : 2]
            yield f"{{ {write(even, depth + 1)} / {write(odd, depth + 1)} }}"
        else:
            length = 1
            yield str(x[i])
        i += length


def _written(first: int, step: int, last: int, length: int) -> str:
    match step:
        case 0:
            return f"{first} * {length}"
        case 1:
            return f"{first} .. {last}"
        case _:
            return f"{first} ..{step} {last}"


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
    longest = max(one, two)
    if longest < STEPPED:
        return 0
    wanted = min(one, two) if min(one, two) >= STEPPED else longest
    pairs = min(wanted, (len(x) - i) // 2)
    # Where a plain run begins, one of the two has come to its end, or there were no two.
    plain = next((j for j in range(i + 1, i + 2 * pairs) if _run(x, j, 1)), i + 2 * pairs)
    return (plain - i) // 2


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
                found += [item for pair in zip(one, two, strict=True) for item in pair]
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
