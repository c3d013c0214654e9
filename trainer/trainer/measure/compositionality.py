"""How the symbols of a language go with the parts of its meanings, and how the language is used.

Each figure is stated beside what it is for messages dealt to other meanings at random: the plug-in estimates
of information are above 0 for small samples even where there is nothing.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from trainer.measure.statistics import entropy_bits, mean, pearson, ranks

Words = Sequence[Hashable]
Meaning = Sequence[Hashable]
# Where a message has ended: a symbol of its own, so that lengths may differ.
ABSENT = ("no symbol",)
SHUFFLES = 100


class WithNull(NamedTuple):
    """A figure, its mean over shuffled messages, and the share of shuffles at least as high (never 0)."""

    value: float
    null_mean: float
    p: float

    def as_json(self) -> dict[str, float | None]:
        """Return it as JSON; nan becomes None."""
        return {k: None if math.isnan(v) else v for k, v in self._asdict().items()}


class Slope(NamedTuple):
    """A fitted straight line: its slope, and the share of the variance it explains. nan below 3 points."""

    slope: float
    r2: float


def mutual_information(x: Words, y: Words) -> float:
    """Return the mutual information of two sequences of values in bits (plug-in)."""
    one, two, both = Counter(x), Counter(y), Counter(zip(x, y, strict=True))
    return max(
        0.0, sum(entropy_bits(list(c.values())) for c in (one, two)) - entropy_bits(list(both.values()))
    )


def positional_disentanglement(
    meanings: Sequence[Meaning], messages: Sequence[Words], *, shuffles: int = SHUFFLES, seed: int = 0
) -> WithNull:
    """Return how far each place of a message speaks of one attribute only: 1 it does, 0 of all alike.

    meanings  [N] of A attributes each; A at least 2
    messages  [N] symbols; a message that has ended holds a symbol of its own at the places behind
    returns   mean over the places of (first - second largest mutual information) / entropy of the place;
              places that always hold the same are left out; nan if all do
    source    Chaabouni et al. 2020, posdis
    """
    longest = max((len(m) for m in messages), default=0)
    places = [[m[j] if j < len(m) else ABSENT for m in messages] for j in range(longest)]
    return _disentanglement(meanings, places, shuffles, seed)


def bag_disentanglement(
    meanings: Sequence[Meaning], messages: Sequence[Words], *, shuffles: int = SHUFFLES, seed: int = 0
) -> WithNull:
    """Return how far each symbol, wherever it stands, speaks of one attribute only.

    returns  as `positional_disentanglement`, with how often each symbol stands in a message for the places
    source   Chaabouni et al. 2020, bosdis
    """
    counts = [Counter(m) for m in messages]
    symbols = sorted({symbol for m in messages for symbol in m}, key=repr)
    return _disentanglement(meanings, [[c[s] for c in counts] for s in symbols], shuffles, seed)


def _disentanglement(
    meanings: Sequence[Meaning], columns: Sequence[Words], shuffles: int, seed: int
) -> WithNull:
    """Return the figure for columns [C][N] of what stands in each message."""
    if not meanings or len(meanings[0]) < 2:
        raise ValueError("a meaning needs at least 2 attributes to be told apart")
    attributes = list(zip(*meanings, strict=True))

    def value(columns: Sequence[Words]) -> float:
        shares = []
        for column in columns:
            entropy = entropy_bits(list(Counter(column).values()))
            if entropy > 0:
                told = sorted((mutual_information(column, a) for a in attributes), reverse=True)
                shares.append((told[0] - told[1]) / entropy)
        return mean(shares)

    return _with_null(value(columns), lambda order: value([[c[i] for i in order] for c in columns]),
                      len(meanings), shuffles, seed)  # fmt: skip


def _with_null(
    found: float, again: Callable[[Sequence[int]], float], n: int, shuffles: int, seed: int
) -> WithNull:
    """Return a figure with its null: `again` gives the figure for an order of the messages."""
    if math.isnan(found):
        return WithNull(math.nan, math.nan, math.nan)
    chance, order, null = random.Random(seed), list(range(n)), []
    for _ in range(shuffles):
        chance.shuffle(order)
        null.append(again(order))
    hits = sum(value >= found - 1e-12 for value in null)
    return WithNull(found, mean(null), (1 + hits) / (1 + shuffles))


def zipf_slope(messages: Sequence[Words]) -> Slope:
    """Return the slope of log frequency over log rank: -1 is Zipf's law, 0 symbols all used alike.

    A least-squares line through all ranks: it describes, it does not prove a power law (Clauset et al. 2009).
    """
    counts = sorted(Counter(symbol for m in messages for symbol in m).values(), reverse=True)
    if len(counts) < 3:
        return Slope(math.nan, math.nan)
    x, y = [math.log(r) for r in range(1, len(counts) + 1)], [math.log(c) for c in counts]
    middle_x, middle_y = mean(x), mean(y)
    slope = math.fsum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / math.fsum(
        (a - middle_x) ** 2 for a in x
    )
    if counts[0] == counts[-1]:
        return Slope(0.0, 1.0)
    return Slope(slope, pearson(x, y) ** 2)


def abbreviation(
    messages: Sequence[Words], length_of: Callable[[Hashable], int], *, shuffles: int = 1000, seed: int = 0
) -> WithNull:
    """Return the law of abbreviation: rank correlation of how rare a symbol is with how long it is.

    length_of  a symbol's length, e.g. in characters
    returns    Spearman's rho; above 0: what is said often is short. The null deals the lengths anew
    source     Zipf 1949; Spearman with shared ranks, as Ferrer-i-Cancho et al. 2013 test it
    """
    used = Counter(symbol for m in messages for symbol in m)
    rare = ranks([-count for count in used.values()])
    long = ranks([length_of(symbol) for symbol in used])
    return _with_null(
        pearson(rare, long), lambda order: pearson(rare, [long[i] for i in order]), len(used), shuffles, seed
    )


class Stability(NamedTuple):
    """How alike two students' messages about the same tasks are.

    same       share of tasks with the very same message
    distance   mean edit distance over the longer length: 0 the same, 1 nothing in common
    by_chance  the same between messages about different tasks
    """

    same: float
    distance: float
    by_chance: float
    n: int


def stability(
    left: Sequence[Words], right: Sequence[Words], far: Callable[[Words, Words], float], *, seed: int = 0
) -> Stability:
    """Compare two sets of messages about the same tasks.

    left, right  [N] in the order of the tasks; N at least 2
    far          distance of two messages
    """
    n = len(left)
    if n != len(right) or n < 2:
        raise ValueError(f"{n} and {len(right)} messages: give two or more, of the same tasks")
    order = list(range(n))
    random.Random(seed).shuffle(order)
    dealt = dict(zip(order, order[1:] + order[:1], strict=True))
    return Stability(
        sum(list(a) == list(b) for a, b in zip(left, right, strict=True)) / n,
        mean([far(a, b) for a, b in zip(left, right, strict=True)]),
        mean([far(left[i], right[dealt[i]]) for i in range(n)]),
        n,
    )
