"""Every number here was worked out by hand, or by brute force."""

from __future__ import annotations

import math

import pytest

from trainer.measure.statistics import (
    bootstrap_mean,
    bootstrap_ratio,
    edit_distance,
    entropy_bits,
    median,
    pearson,
    ranks,
    wilson,
)


def test_wilsons_interval_is_the_published_one() -> None:
    # 8 of 10, z = 1.96: (0.8 + .19208 +- 1.96 sqrt(.016 + .009604)) / 1.38416
    found = wilson(8, 10)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)


def test_wilsons_interval_never_leaves_the_unit_interval_and_is_never_empty() -> None:
    assert wilson(0, 5).low == 0 and wilson(0, 5).high > 0.3
    assert wilson(5, 5).high == 1 and wilson(5, 5).low < 0.7


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        wilson(0, 0)


def test_the_bootstrap_is_repeatable_and_holds_the_mean() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    found = bootstrap_mean(values, seed=3)
    assert found == bootstrap_mean(values, seed=3)
    assert found.low < found.value == 2.5 < found.high


def test_a_ratio_of_proportional_pairs_has_no_spread() -> None:
    # Every task's pair has ratio 2: pairs are kept together, so no resample can have another.
    found = bootstrap_ratio([2, 20, 200], [1, 10, 100])
    assert found.value == found.low == found.high == 2


def test_a_ratio_is_that_of_the_means_not_the_mean_of_ratios() -> None:
    assert bootstrap_ratio([10, 10], [10, 1]).value == pytest.approx(20 / 11)


def test_ratios_of_different_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs"):
        bootstrap_ratio([1], [1, 2])


def test_ties_share_their_rank() -> None:
    assert ranks([10, 20, 20, 5]) == [2, 3.5, 3.5, 1]


def test_correlation_of_a_constant_is_undefined() -> None:
    assert math.isnan(pearson([1, 1, 1], [1, 2, 3]))
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)


def test_edit_distance_of_kitten_and_sitting_is_three() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == 2


def test_entropy_of_a_fair_coin_is_one_bit() -> None:
    assert entropy_bits([5, 5]) == 1
    assert entropy_bits([7]) == 0


def test_the_median_of_an_even_number_lies_between() -> None:
    assert median([4, 1, 3, 2]) == 2.5
