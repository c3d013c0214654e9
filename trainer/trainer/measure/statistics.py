"""The few statistics every table and plot here rests on. Standard library only; every sampler is seeded.

Never a bare mean: a rate comes with a Wilson interval, a mean or a ratio with a bootstrap over tasks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from typing import NamedTuple

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A point estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(passed: int, n: int) -> Interval:
    """Return the share passed / n with Wilson's score interval, which stays inside [0, 1].

    raises   ValueError if n is not positive or passed is outside 0..n
    source   Wilson 1927
    """
    if n <= 0 or not 0 <= passed <= n:
        raise ValueError(f"passed={passed} of n={n} is no share; measure at least one task")
    share, z2 = passed / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def mean(values: Sequence[float]) -> float:
    """Return the mean; nan for no values."""
    return math.fsum(values) / len(values) if values else math.nan


def median(values: Sequence[float]) -> float:
    """Return the median; nan for no values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def bootstrap_mean(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the mean with its percentile bootstrap interval over the values (one value a task)."""
    chance = random.Random(seed)
    means = sorted(mean(chance.choices(values, k=len(values))) for _ in range(resamples)) if values else []
    return Interval(mean(values), *_percentiles(means))


def bootstrap_ratio(
    above: Sequence[float], below: Sequence[float], *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return mean(above) / mean(below) with a bootstrap that keeps each task's pair together.

    above, below  [n] values of the same tasks in the same order
    raises        ValueError if the lengths differ
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} values against {len(below)}: the pairs must be of the same tasks")
    if not below or not math.fsum(below):
        return Interval(math.nan, math.nan, math.nan)
    chance, places, ratios = random.Random(seed), range(len(below)), []
    for _ in range(resamples):
        drawn = chance.choices(places, k=len(below))
        total = math.fsum(below[i] for i in drawn)
        if total:
            ratios.append(math.fsum(above[i] for i in drawn) / total)
    return Interval(math.fsum(above) / math.fsum(below), *_percentiles(sorted(ratios)))


def _percentiles(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of sorted values."""
    if not ordered:
        return math.nan, math.nan
    last = len(ordered) - 1
    return ordered[round(0.025 * last)], ordered[round(0.975 * last)]


def ranks(values: Sequence[float]) -> list[float]:
    """Return the ranks from 1; equal values share their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            found[place] = (start + end) / 2 + 1
        start = end + 1
    return found


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the correlation of x and y; nan if either is constant."""
    mean_x, mean_y = mean(x), mean(y)
    var_x = math.fsum((a - mean_x) ** 2 for a in x)
    var_y = math.fsum((b - mean_y) ** 2 for b in y)
    if not var_x or not var_y:
        return math.nan
    return math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / math.sqrt(
        var_x * var_y
    )


def edit_distance(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Return Levenshtein's distance: insertions, deletions and substitutions, each of cost 1."""
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        current = [i]
        for j, b in enumerate(right, 1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def entropy_bits(counts: Sequence[int]) -> float:
    """Return the entropy of the empirical distribution in bits (plug-in, biased low for few samples)."""
    total = sum(counts)
    return -math.fsum(c / total * math.log2(c / total) for c in counts if c) if total else math.nan
