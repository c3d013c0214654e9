"""Sequences with a program that makes them: generated, never copied; there is no end of them.

One to five base lists of 5 to 25 bytes; some are changed, alone or in pairs; all are put together by
concatenation (0.8) or interleaving (0.2), and a part may come once more. The probabilities follow the
generator of the KoLMogorov Test, with the rare operations made less rare, and every stage looking at every
list. What is made is computed again before it is given out.

Example: sequence [7, 7, 7, 7, 7, 10, 11, 12, 13, 14], program
    sequence_1 = repeat_num(5, 7)
    sequence_2 = range_func_up(10, 14)
    sequence_3 = concatenate(sequence_1, sequence_2)
    output = sequence_3
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import NamedTuple

from trainer.channels.program.program import SAME, Argument, Line, Program, Ref, next_value, values
from trainer.channels.program.program_code import length_bits
from trainer.config import ConfigError

SPLITS = ("train", "validation", "test")
# Hash buckets of 1,000: no sequence is in two splits, whatever seed draws it.
SPLIT_ENDS = (("test", 100), ("validation", 150), ("train", 1000))
GATE = 0.4
BASES, LENGTHS, INTERVALS = (1, 5), (5, 25), (2, 5)
MAX_BARREN = 10_000


class Weights(NamedTuple):
    """How likely a list is to be changed in each way, once its stage takes place (probability GATE)."""

    reverse: float = 0.1
    repeat: float = 0.1
    jumps: float = 0.1
    slice: float = 0.1
    substitute: float = 0.1
    extremes: float = 0.1
    shift: float = 0.15
    modulo: float = 0.1
    scan: float = 0.2
    filter: float = 0.2
    pairs: float = 0.2
    pair_modulo: float = 0.1


USUAL = Weights()


class Pair(NamedTuple):
    """A sequence of bytes, and a program for it.

    program  as the generator wrote it
    """

    sequence: tuple[int, ...]
    program: Program


class _Draft:
    """A program being made: its lines, their values, and which of them belong into the output."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.lines: list[Line] = []
        self.values: list[list[int]] = []
        self.parts: list[int] = []

    def add(self, operation: str, *arguments: Argument, part: bool = True) -> bool:
        """Write a line, if its value is a list of at least two bytes. Returns whether it is."""
        line = Line(operation, arguments)
        value, _ = next_value(line, self.values)
        if len(value) < 2 or min(value) < 0 or max(value) > 255:
            return False
        self.lines.append(line)
        self.values.append(value)
        if part:
            self.parts.append(len(self.lines) - 1)
        return True

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability


def draw(rng: random.Random, weights: Weights = USUAL) -> Pair:
    """Draw one pair, of any length."""
    draft = _Draft(rng)
    for _ in range(rng.randint(*BASES)):
        _base(draft)
    for stage in (_change_lists, _calculate, _choose, _combine):
        if draft.happens(GATE):
            stage(draft, weights)
    _put_together(draft)
    draft.lines.append(Line(SAME, (Ref(len(draft.lines) - 1),)))
    return Pair(tuple(draft.values[-1]), Program(tuple(draft.lines)))


def _base(draft: _Draft) -> None:
    rng, done = draft.rng, False
    while not done:
        n, start, step = rng.randint(*LENGTHS), rng.randrange(256), rng.randint(*INTERVALS)
        match rng.randrange(4):
            case 0:
                done = draft.add("repeat_num", n, start)
            case 1:
                done = draft.add("range_func_up", start, start + n - 1)
            case 2:
                done = draft.add("range_func_interval", start, start + (n - 1) * step + 1, step)
            case _:
                done = draft.add("set_list", tuple(rng.randrange(256) for _ in range(n)))


def _change_lists(draft: _Draft, w: Weights) -> None:
    rng = draft.rng
    for line in list(draft.parts):
        ref, value = Ref(line), draft.values[line]
        if draft.happens(w.reverse) and draft.lines[line].operation != "repeat_num":
            draft.add("reverse_list", ref)
        if draft.happens(w.repeat):
            draft.add("repeat_list", rng.randint(2, 4), ref)
        if draft.happens(w.jumps):
            draft.add("get_subsequence_with_jumps", ref, rng.randint(2, 5))
        if draft.happens(w.slice):
            start, end = sorted(rng.sample(range(len(value) + 1), 2))
            draft.add("get_subsequence_between_indices", ref, start, end)
        if draft.happens(w.substitute):
            made = draft.add("substitute", ref, rng.choice(value), rng.randrange(256))
            if made and draft.happens(0.25):
                draft.parts.remove(line)


def _calculate(draft: _Draft, w: Weights) -> None:
    rng = draft.rng
    for line in list(draft.parts):
        ref, value = Ref(line), draft.values[line]
        if draft.happens(w.extremes) and draft.lines[line].operation == "set_list":
            draft.add(rng.choice(("max_n", "min_n")), ref, rng.randint(2, len(value)))
        if draft.happens(w.shift):
            name = rng.choice(("add_item_list", "subtract_item_list"))
            room = 255 - max(value) if name == "add_item_list" else min(value)
            if room:
                draft.add(name, ref, rng.randint(1, room))
        if draft.happens(w.modulo) and max(value) > 2:
            draft.add("modulo_item_list", ref, rng.randint(2, max(value)))
        if draft.happens(w.scan):
            draft.add("scan_add", ref)


def _choose(draft: _Draft, w: Weights) -> None:
    for line in list(draft.parts):
        if draft.happens(w.filter):
            predicate = draft.rng.choice(("is_even", "is_odd", "is_not_zero"))
            kept, _ = next_value(Line("filter", (predicate, Ref(line))), draft.values)
            # What keeps everything is a copy, which says nothing about the operation.
            if kept != draft.values[line]:
                draft.add("filter", predicate, Ref(line))


def _combine(draft: _Draft, w: Weights) -> None:
    for one, two in pairwise(list(draft.parts)):
        if draft.happens(w.pairs):
            x, y = draft.values[one], draft.values[two]
            name = "add_two_lists" if draft.happens(0.5) else "subtract_two_lists"
            first, second = (two, one) if name == "subtract_two_lists" and x[0] < y[0] else (one, two)
            draft.add(name, Ref(first), Ref(second))
        if draft.happens(w.pair_modulo):
            draft.add("modulo_two_lists", Ref(one), Ref(two))


def _put_together(draft: _Draft) -> None:
    parts, whole = list(draft.parts), draft.parts[0]
    again = [line for line in parts if draft.happens(0.2)] if len(parts) > 1 else []
    for line in [*parts[1:], *again]:
        draft.add("interleave" if draft.happens(0.2) else "concatenate", Ref(whole), Ref(line), part=False)
        whole = len(draft.lines) - 1
    if whole != len(draft.lines) - 1:
        # One part only, and it is not the last line: what was made of it fell out, so nothing refers to that.
        del draft.lines[whole + 1 :], draft.values[whole + 1 :]


def split_of(sequence: tuple[int, ...]) -> str:
    """Return the split a sequence belongs to: 10 % test, 5 % validation, else train."""
    digest = hashlib.sha256(",".join(map(str, sequence)).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % SPLIT_ENDS[-1][1]
    return next(name for name, end in SPLIT_ENDS if bucket < end)


def stream(
    split: str | None, seed: int, *, max_length: int = 128, min_length: int = 2,
    exclude: Collection[tuple[int, ...]] = (), weights: Weights = USUAL,
    accept: Callable[[Pair], bool] = lambda pair: True,
) -> Iterator[Pair]:  # fmt: skip
    """Yield pairs of a split without end, computed again before they are given out; repetitions may come.

    split       train, validation, test, or None for any
    seed        the same seed gives the same pairs
    max_length  bytes of a sequence at most
    exclude     sequences never to give out, e.g. a test set's
    raises      ConfigError, a ValueError, if nothing fits for MAX_BARREN draws
    """
    rng = random.Random(f"{split}/{seed}")
    barren = 0
    while True:
        pair = draw(rng, weights)
        barren += 1
        if barren > MAX_BARREN:
            what = f"no {split} pair of {min_length} to {max_length} bytes in {MAX_BARREN} draws"
            raise ConfigError(f"{what}: give a max_length of 16 or more, or fewer sequences")
        if not min_length <= len(pair.sequence) <= max_length or pair.sequence in exclude:
            continue
        if split is not None and split_of(pair.sequence) != split:
            continue
        if accept(pair) and tuple(values(pair.program)[-1]) == pair.sequence:
            barren = 0
            yield pair


def generate(split: str | None, n: int, seed: int = 0, **limits: object) -> list[Pair]:
    """Return n pairs of distinct sequences; of two programs for one, the shorter in bits. See `stream`."""
    found: dict[tuple[int, ...], Program] = {}
    pairs = stream(split, seed, **limits)  # type: ignore[arg-type]
    while len(found) < n:
        pair = next(pairs)
        other = found.get(pair.sequence)
        if other is None or length_bits(pair.program) < length_bits(other):
            found[pair.sequence] = pair.program
    return [Pair(sequence, program) for sequence, program in found.items()]
