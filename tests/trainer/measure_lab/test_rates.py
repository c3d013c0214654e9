"""Fronts and intervals against values worked by hand."""

from __future__ import annotations

import math
import random

import pytest

from trainer.measure.rates import Series, area, fewest, front_of, grouped, point_of, resampled, staircase


def series(name: str, bits: list[float], passed: list[bool], **more: object) -> Series:
    words: dict[str, object] = {"kind": "student", "code": "tokens", "tasks": "t", "run": "a", **more}
    return Series("text", name, bits=tuple(bits), passed=tuple(passed), **words)  # type: ignore[arg-type]


def test_a_point_that_another_beats_is_not_on_the_front() -> None:
    points = [(40.0, 1.0), (10.0, 0.5), (12.0, 0.4), (20.0, 0.9), (10.0, 0.2), (50.0, 1.0)]
    assert staircase(points) == [(10.0, 0.5), (20.0, 0.9), (40.0, 1.0)]


def test_the_area_is_that_of_a_hand() -> None:
    # Nothing up to 10 bits, 0.5 up to 20, 0.9 up to 40.
    assert area([(10, 0.5), (20, 0.9), (40, 1.0)], 40) == pytest.approx((0.5 * 10 + 0.9 * 20) / 40)
    assert area([(0, 0.25)], 8) == 0.25
    assert area([(9, 1.0)], 8) == 0
    with pytest.raises(ValueError, match="limit=0"):
        area([(1, 1)], 0)


def test_the_fewest_bits_are_those_of_the_cheapest_sender_that_is_good_enough() -> None:
    assert fewest([(10, 0.5), (20, 0.95), (40, 1.0)], 0.95) == 20
    assert math.isnan(fewest([(10, 0.5)], 0.95))


def test_one_runs_point_is_its_mean_with_wilsons_interval() -> None:
    found = point_of([series("s", [10.0, 20.0], [True, True], tokens=(1, 2))])
    assert found.bits.value == 15 and found.pass_rate.value == 1
    assert found.pass_rate.low == pytest.approx(0.3424, abs=1e-3)  # of 2 of 2, Wilson
    assert found.tokens is not None and found.tokens.value == 1.5


def test_no_chance_seen_is_not_no_chance() -> None:
    # Two runs that pass all of ten tasks: a bootstrap would say that nothing else can happen.
    found = point_of([series("s", [1.0] * 10, [True] * 10, run=run) for run in "ab"]).pass_rate
    assert found.value == 1 and found.low == pytest.approx(0.7225, abs=1e-3)
    assert point_of([series("total", [5.0], [True])]).pass_rate == (1, 1, 1)


def test_seeds_widen_the_interval_beyond_that_of_the_tasks() -> None:
    chance = random.Random(0)
    noise = [chance.gauss(0, 1) for _ in range(200)]
    same = [series("s", [100 + x for x in noise], [True] * 200, run=f"r{i}") for i in range(4)]
    apart = [series("s", [100 + 10 * i + x for x in noise], [True] * 200, run=f"r{i}") for i in range(4)]
    narrow, wide = point_of(same).bits, point_of(apart).bits
    assert narrow.high - narrow.low < 0.6
    assert wide.high - wide.low > 10
    assert wide.value == pytest.approx(115, abs=0.3)


def test_a_bootstrap_interval_covers_the_mean_it_should() -> None:
    # The standard error of a mean of 400 is 0.05: the interval must be about +-0.098 wide.
    chance = random.Random(1)
    bits = [chance.gauss(5, 1) for _ in range(400)]
    found = point_of([series("s", bits, [True] * 400)]).bits
    assert found.high - found.low == pytest.approx(4 * 0.05, rel=0.15)


def test_senders_of_the_same_tasks_are_drawn_together() -> None:
    one = resampled([series("a", [float(i) for i in range(50)], [True] * 50)])
    two = resampled([series("b", [2.0 * i for i in range(50)], [True] * 50)])
    assert two.bits == pytest.approx(2 * one.bits)


def test_runs_on_different_numbers_of_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="a: 2, b: 1"):
        grouped([series("s", [1, 2], [True] * 2), series("s", [1], [True], run="b")])


def test_a_series_needs_a_verdict_for_each_message() -> None:
    with pytest.raises(ValueError, match="2 lengths, 1 verdicts"):
        series("s", [1, 2], [True])


def test_a_front_knows_what_it_costs_to_reach_the_verbose_sender() -> None:
    n = 40
    verbose = [series("reference", [100.0] * n, [True] * n, kind="baseline", tokens=(10,) * n)]
    student = [series("student", [30.0] * n, [True] * 39 + [False], tokens=(3,) * n)]
    null = [series("empty message", [0.0] * n, [True] * 4 + [False] * 36, kind="control", tokens=(0,) * n)]
    found = front_of([verbose, student, null], verbose)
    assert found.limit == 100 and found.level == pytest.approx(0.95)
    assert found.area.value == pytest.approx(0.1 * 0.3 + 0.975 * 0.7)
    assert found.area.low < found.area.value < found.area.high
    assert found.bits_at.value == 30 and found.reached_by == "student"
    assert found.tokens_at is not None and found.tokens_at.value == 3
    assert found.steps == [(0.0, 0.1), (30.0, 0.975), (100.0, 1.0)]
    worse = [series("student", [30.0] * n, [True] * 30 + [False] * 10, tokens=(3,) * n)]
    assert front_of([verbose, worse, null], verbose).reached_by == "reference"


def test_what_passes_nothing_reaches_nothing_not_even_a_verbose_sender_that_passes_nothing() -> None:
    n = 20
    student = [series("student", [100.0] * n, [False] * n)]
    null = [series("none", [0.0] * n, [False] * n, kind="control")]
    found = front_of([student, null], student)
    assert found.level == 0 and math.isnan(found.bits_at.value) and found.reached_by == ""


def test_the_fewest_bits_are_reached_by_one_that_passes_often_enough_whoever_else_sends_as_few() -> None:
    n = 20
    verbose = [series("reference", [100.0] * n, [True] * n, kind="baseline")]
    wrong = [series("shuffled", [30.0] * n, [False] * n, kind="control")]
    student = [series("student", [30.0] * n, [True] * n)]
    assert front_of([verbose, wrong, student], verbose).reached_by == "student"
