"""Rewards against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.channels.text.rewards import Judged, score, without_idle
from trainer.config_text import Reward


def rewards(judged: Judged, level: float = 0.0, **settings: object) -> list[float]:
    return score(Reward.model_validate(settings), judged, level).tolist()


def test_ratio_is_ten_times_reference_over_message_tokens_or_minus_one() -> None:
    # 10 x 24/12 = 20, 10 x 24/24 = 10, 10 x 24/48 = 5; a failed message gets -1 however short it is.
    judged = Judged([1, 1, 1, 0, 0], [12, 24, 48, 1, 300], [24] * 5)
    assert rewards(judged) == [20.0, 10.0, 5.0, -1.0, -1.0]


def test_ratio_follows_its_two_settings() -> None:
    assert rewards(Judged([1, 0], [5, 5], [10, 10]), pass_reward=3, fail_reward=-2) == [6.0, -2.0]


def test_a_one_token_message_earns_the_whole_reference_without_floor_or_cap() -> None:
    judged = Judged([1], [1], [50])
    assert rewards(judged) == [500.0]
    assert rewards(judged, length_floor=4) == [125.0]
    assert rewards(judged, ratio_cap=5.0) == [50.0]


def test_a_group_that_fails_as_a_whole_has_no_variance_in_ratio_and_log_ratio() -> None:
    judged = Judged([0, 0, 0, 0], [0, 3, 40, 256], [30] * 4)
    for kind in ("ratio", "log_ratio", "budget", "relative"):
        assert np.ptp(rewards(judged, reward=kind)) == 0


def test_log_ratio_grows_by_half_per_factor_of_four_and_is_bounded() -> None:
    # reference / tokens = 1, 4, 16, 64, 1/4, 1/1024: log4 = 0, 1, 2, 3 (cut to 2), -1, -5 (cut to -2)
    judged = Judged([1] * 6, [64, 16, 4, 1, 256, 65536], [64] * 6)
    assert rewards(judged, reward="log_ratio") == pytest.approx([1, 1.5, 2, 2, 0.5, 0])


def test_budget_pays_within_so_many_tokens_and_less_in_proportion_above() -> None:
    # A budget of 10 and a slack of 8: 2 over is 1 - 2/8, 8 over and more is 0; failing is -1 at any length.
    judged = Judged([1, 1, 1, 1, 1, 0], [2, 10, 12, 18, 40, 2], [24] * 6)
    assert rewards(judged, 10.0, reward="budget") == [1, 1, 0.75, 0, 0, -1]
    assert rewards(judged, 10.0, reward="budget", budget_slack=0, fail_reward=-2) == [1, 1, 0, 0, 0, -2]


def test_lagrangian_is_multiplier_times_passed_minus_relative_length() -> None:
    judged = Judged([1, 0, 1], [6, 6, 24], [24, 24, 24])
    assert rewards(judged, 2.0, reward="lagrangian") == [1.75, -0.25, 1.0]


def test_relative_compares_what_passes_with_its_own_group() -> None:
    # Group 0 passes with 4 and 8 tokens: mean 6, std 2, so +1 and -1. Group 1 has one that passes: 0.
    judged = Judged([1, 1, 0, 1, 0], [4, 8, 1, 30, 2], [24] * 5, [0, 0, 0, 1, 1])
    assert rewards(judged, 2.0, reward="relative") == [3.0, 1.0, -2.0, 2.0, -2.0]


def test_relative_never_blows_up_a_difference_of_less_than_a_token() -> None:
    # 9, 9, 9, 10: mean 9.25, std 0.43, taken as 1.
    judged = Judged([1] * 4, [9, 9, 9, 10], [24] * 4)
    assert rewards(judged, 1.0, reward="relative") == [1.25, 1.25, 1.25, 0.25]


def test_a_length_floor_ends_the_gain_of_being_shorter() -> None:
    judged = Judged([1, 1, 1], [0, 2, 4], [8, 8, 8])
    assert rewards(judged, 1.0, reward="lagrangian", length_floor=4) == [0.5, 0.5, 0.5]


def test_no_message_is_rewarded_with_infinity_or_nan() -> None:
    judged = Judged([1, 0], [0, 0], [1, 1])
    for kind in ("ratio", "log_ratio", "budget", "lagrangian", "relative"):
        assert all(math.isfinite(value) for value in rewards(judged, 1.0, reward=kind))


@pytest.mark.parametrize(
    "judged", [Judged([1], [1, 2], [3, 3]), Judged([1], [-1], [3]), Judged([1], [1], [0])]
)
def test_arrays_that_make_no_sense_are_refused(judged: Judged) -> None:
    with pytest.raises(ValueError):
        rewards(judged)


def test_an_anchor_counts_only_where_nothing_else_of_its_group_passed() -> None:
    """Three groups of three, the last of each an anchor: one that passes too, the only one, a failure."""
    rewards = np.array([2.0, -1.0, 9.0, -1.0, -1.0, 9.0, -1.0, -3.0, -5.0])
    passed = [True, False, True, False, False, True, False, False, False]
    found, idle = without_idle(rewards, passed, [False, False, True] * 3, [4, 4, 4, 7, 7, 7, 5, 5, 5])
    assert found.tolist() == [2.0, -1.0, 0.5, -1.0, -1.0, 9.0, -1.0, -3.0, -2.0]
    assert idle == [False, False, True, False, False, False, False, False, True]
    for group in (found[:3], found[6:]):
        assert group[2] - group.mean() == 0 and group.mean() == group[:2].mean()
