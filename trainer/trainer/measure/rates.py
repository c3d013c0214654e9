"""Rate against success: points, the front they make, and intervals over seeds and tasks. Pure arithmetic.

A series is what one sender said about each task and what came of it, in bits. Nothing here knows what a run
is, or where the bits come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from trainer.measure.statistics import Interval, wilson

RESAMPLES = 1000
Kind = Literal["student", "untrained", "baseline", "reference", "control"]


@dataclass(frozen=True)
class Series:
    """One sender in one run, measured in one code.

    channel  text, program or latent
    code     how its bits are counted, e.g. "tokens", "entropy", "prefix", "gzip", "vectors"
    kind     student, untrained, baseline (could be sent instead), reference (is not sent: what it would
             take), control
    bits     [N] per message, one message a task, failed ones included
    passed   [N]
    tasks    what the tasks are known by: series with the same name and length are of the same tasks
    setting  what tells runs apart that are no seeds of one another; empty where there is nothing to tell
    tokens   [N] where messages are made of tokens
    """

    channel: str
    name: str
    code: str
    kind: Kind
    bits: tuple[float, ...]
    passed: tuple[bool, ...]
    tasks: str
    run: str = ""
    setting: str = ""
    tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.bits or len(self.bits) != len(self.passed):
            raise ValueError(f"{self.name}: {len(self.bits)} lengths, {len(self.passed)} verdicts; one each")

    @property
    def group(self) -> tuple[str, ...]:
        """What seeds of the same thing share."""
        return (self.channel, self.name, self.code, self.kind, self.setting, self.tasks)


class Point(NamedTuple):
    """One sender over its runs.

    bits, pass_rate  means over runs and tasks, 95 %
    tokens           the same, where messages are made of tokens
    runs, n          how many runs (seeds), and tasks of each
    tasks            what the tasks are known by
    """

    channel: str
    name: str
    code: str
    kind: str
    bits: Interval
    pass_rate: Interval
    tokens: Interval | None
    runs: int
    n: int
    tasks: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {k: v._asdict() if isinstance(v, Interval) else v for k, v in self._asdict().items()}


@dataclass(frozen=True)
class Front:
    """What the senders of one channel reach in one code.

    area       share of the rectangle up to `limit` bits that lies under the front, 0 to 1
    limit      bits per message of the verbose sender
    verbose    who that is; level is its pass rate times `share`
    bits_at    fewest bits per message at `level` or above; nan where nobody reaches it
    tokens_at  the same in tokens, where messages are made of them
    reached_by who says it with so few
    steps      the corners of the front, (bits, pass rate), from the left
    """

    channel: str
    code: str
    tasks: str
    area: Interval
    limit: float
    verbose: str
    level: float
    bits_at: Interval
    tokens_at: Interval | None
    reached_by: str
    steps: list[tuple[float, float]]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {k: v._asdict() if isinstance(v, Interval) else v for k, v in self.__dict__.items()}


class Resampled(NamedTuple):
    """A group's means in each resample. [S] each; tokens None where there are none."""

    bits: Any
    passed: Any
    tokens: Any


def grouped(series: Sequence[Series]) -> list[list[Series]]:
    """Return the series in groups of seeds, in the order they came.

    raises  ValueError where two series of a group were measured on different numbers of tasks
    """
    groups: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        groups.setdefault(one.group, []).append(one)
    for found in groups.values():
        if len({len(one.bits) for one in found}) > 1:
            sizes = ", ".join(f"{one.run}: {len(one.bits)}" for one in found)
            raise ValueError(f"{found[0].name}: different numbers of tasks ({sizes}); evaluate with one --n")
    return list(groups.values())


def resampled(group: Sequence[Series], *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Draw runs, and tasks within them, with replacement; groups of as many tasks get the same draws.

    group    [R] runs of N tasks each, the same tasks
    returns  means [S] over the drawn runs and tasks
    """
    chance = np.random.default_rng([seed, len(group[0].bits)])
    tasks = chance.integers(0, len(group[0].bits), (resamples, len(group[0].bits)))
    runs = np.random.default_rng([seed, 7, len(group)]).integers(0, len(group), (resamples, len(group)))

    def means(values: Any) -> Any:
        by_run = np.asarray(values, dtype=float)
        # [R, S]: each run's mean over each draw of tasks; then the mean over the drawn runs.
        of_runs = np.stack([row[tasks].mean(axis=1) for row in by_run])
        return np.take_along_axis(of_runs.T, runs, axis=1).mean(axis=1)

    tokens = [one.tokens for one in group]
    return Resampled(
        means([one.bits for one in group]), means([one.passed for one in group]),
        None if any(t is None for t in tokens) else means(tokens),
    )  # fmt: skip


def interval(value: float, draws: Any) -> Interval:
    """Return a value with the 2.5th and 97.5th percentile of its draws; nan draws are left out."""
    found = np.asarray(draws, dtype=float)
    found = found[np.isfinite(found)]
    if not len(found):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def point_of(group: Sequence[Series]) -> Point:
    """Return a group's point.

    Where a bootstrap of verdicts sees no chance at all (one run; every task alike in all of them), the pass
    rate gets Wilson's interval. A series of one value is a total that somebody else measured, without one.
    """
    draws, first = resampled(group), group[0]
    n = len(first.bits)
    bits = float(np.mean([one.bits for one in group]))
    rate = float(np.mean([one.passed for one in group]))
    if n == 1:
        passes = Interval(rate, rate, rate)
    elif len(group) == 1 or rate in (0.0, 1.0):
        passes = wilson(round(rate * n), n)
    else:
        passes = interval(rate, draws.passed)
    tokens = None
    if draws.tokens is not None:
        tokens = interval(float(np.mean([one.tokens for one in group])), draws.tokens)
    return Point(
        first.channel, label(first), first.code, first.kind, interval(bits, draws.bits), passes, tokens,
        len(group), n, first.tasks,
    )  # fmt: skip


def label(series: Series) -> str:
    """Return a sender's name, with its setting where there are several."""
    return f"{series.name} ({series.setting})" if series.setting else series.name


def staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats on both: from the left, each with a higher pass rate.

    points  (bits, pass rate)
    """
    found: list[tuple[float, float]] = []
    for bits, rate in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or rate > found[-1][1]:
            found.append((bits, rate))
    return found


def area(points: Sequence[tuple[float, float]], limit: float) -> float:
    """Return the share of the rectangle [0, limit] x [0, 1] below the best pass rate within so many bits.

    raises  ValueError if the limit is not above 0
    """
    if not limit > 0:
        raise ValueError(f"limit={limit:g}: the verbose sender must take more than no bits")
    corners = [(b, r) for b, r in staircase(points) if b < limit]
    edges = [b for b, _ in corners[1:]] + [limit]
    return (
        math.fsum(r * (end - b) for (b, r), end in zip(corners, edges, strict=True)) / limit
        if corners
        else 0.0
    )


def fewest(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return the fewest bits among the points with at least that pass rate; nan where there is none."""
    return min((bits for bits, rate in points if reaches(rate, level)), default=math.nan)


def reaches(rate: float, level: float) -> bool:
    """Return whether a pass rate is at least the level, as far as floats tell; 0 reaches none, not even 0."""
    return rate > 0 and rate >= level - 1e-12


def front_of(groups: Sequence[Sequence[Series]], verbose: Sequence[Series], share: float = 0.95) -> Front:
    """Return the front of the groups of one channel in one code.

    groups   what may be sent, the verbose sender among them or not
    verbose  the group that sends everything; its bits are the limit, `share` of its pass rate the level
    raises   ValueError without a group
    """
    if not groups:
        raise ValueError("no sender to make a front of")
    draws = [resampled(group) for group in groups]
    middle = [point_of(group) for group in groups]
    most, full = resampled(verbose), point_of(verbose)
    limit, level = full.bits.value, share * full.pass_rate.value
    places = [(p.bits.value, p.pass_rate.value) for p in middle]
    areas, least, words = [], [], []
    for s in range(len(most.bits)):
        drawn = [(float(d.bits[s]), float(d.passed[s])) for d in draws]
        areas.append(area(drawn, float(most.bits[s])))
        least.append(fewest(drawn, share * float(most.passed[s])))
    best = fewest(places, level)
    who = next((i for i, (bits, rate) in enumerate(places) if bits == best and reaches(rate, level)), None)
    tokens = None
    if who is not None and (chosen := middle[who].tokens) is not None:
        # Bits are tokens times a constant, or a code fitted anew: the tokens of whoever is chosen.
        words = [float(draws[who].tokens[s]) for s in range(len(areas))]
        tokens = interval(chosen.value, words)
    first = groups[0][0]
    return Front(
        first.channel, first.code, first.tasks, interval(area(places, limit), areas), limit,
        full.name, level, interval(best, least), tokens, "" if who is None else middle[who].name,
        [(b, r) for b, r in staircase(places) if b <= limit],
    )  # fmt: skip
