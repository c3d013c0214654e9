"""Metrics of languages on languages made by hand: compositional, holistic, random, and in between."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest

from trainer.measure.compositionality import (
    abbreviation,
    bag_disentanglement,
    mutual_information,
    positional_disentanglement,
    stability,
    zipf_slope,
)  # fmt: skip
from trainer.measure.language import normalised_distance

MEANINGS = [(f"a{a}", f"b{b}", f"c{c}") for a, b, c in product(range(4), repeat=3)]
COMPOSED = [tuple(part.upper() for part in m) for m in MEANINGS]
CHANCE = random.Random(7)
HOLISTIC = [tuple(CHANCE.choices("ABCD", k=3)) for _ in MEANINGS]


def test_mutual_information_is_that_of_a_hand() -> None:
    assert mutual_information("aabb", "xxyy") == pytest.approx(1)
    assert mutual_information("aabb", "xyxy") == pytest.approx(0)
    # H(x) = 1, H(y) = 0.811, H(x, y) = 1.5
    assert mutual_information("aabb", "xxxy") == pytest.approx(1 + 0.8112781 - 1.5)


def test_each_place_of_a_composed_language_speaks_of_one_attribute() -> None:
    found = positional_disentanglement(MEANINGS, COMPOSED)
    assert found.value == pytest.approx(1)
    assert found.null_mean < 0.15 and found.p == pytest.approx(1 / 101)
    assert bag_disentanglement(MEANINGS, COMPOSED).value == pytest.approx(1)


def test_a_language_without_order_is_one_of_bags_only() -> None:
    chance = random.Random(1)
    mixed = [tuple(chance.sample(m, 3)) for m in COMPOSED]
    assert bag_disentanglement(MEANINGS, mixed).value == pytest.approx(1)
    assert positional_disentanglement(MEANINGS, mixed).value < 0.4


def test_a_language_of_places_with_common_symbols_is_no_bag() -> None:
    # The same four letters in every place: which place it is says what is meant.
    shared = [tuple("ABCD"[int(part[1])] for part in m) for m in MEANINGS]
    assert positional_disentanglement(MEANINGS, shared).value == pytest.approx(1)
    assert bag_disentanglement(MEANINGS, shared).value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("measure", [positional_disentanglement, bag_disentanglement])
def test_a_holistic_language_is_no_better_than_chance(measure: object) -> None:
    found = measure(MEANINGS, HOLISTIC)  # type: ignore[operator]
    assert found.value < 0.2 and found.p > 0.05


def test_a_place_that_speaks_of_two_attributes_alike_counts_nothing() -> None:
    both = [(a + b, c) for a, b, c in COMPOSED]
    found = positional_disentanglement(MEANINGS, both)
    assert found.value == pytest.approx(0.5)  # the first place 0, the second 1


def test_messages_may_end_early() -> None:
    meanings = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    found = positional_disentanglement(meanings, [("A",), ("A", "Y"), ("B",), ("B", "Y")], shuffles=5)
    assert found.value == pytest.approx(1)


def test_a_language_of_one_message_has_nothing_to_measure() -> None:
    assert math.isnan(positional_disentanglement(MEANINGS, [("x",)] * len(MEANINGS)).value)
    assert positional_disentanglement(MEANINGS, [("x",)] * len(MEANINGS)).as_json()["value"] is None
    with pytest.raises(ValueError, match="2 attributes"):
        bag_disentanglement([("a",)], [("x",)])


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0, -2.0])
def test_the_zipf_slope_is_the_power_it_was_made_with(power: float) -> None:
    message = [f"w{r}" for r in range(1, 30) for _ in range(round(5e3 * r**power))]
    found = zipf_slope([message])
    assert found.slope == pytest.approx(power, abs=0.02) and found.r2 > 0.999
    assert math.isnan(zipf_slope([["a", "b"]]).slope)


def test_frequent_short_words_are_the_law_of_abbreviation() -> None:
    words = {"a" * n: 40 - 3 * n for n in range(1, 11)}
    short = [[w] * times for w, times in words.items()]
    assert abbreviation(short, lambda w: len(str(w))).value == pytest.approx(1)
    assert abbreviation(short, lambda w: len(str(w))).p < 0.01
    assert abbreviation(short, lambda w: -len(str(w))).value == pytest.approx(-1)
    dealt = [["ccc"] * 9, ["a"] * 8, ["bbbbb"] * 7, ["dd"] * 6, ["eeee"] * 5]
    assert abbreviation(dealt, lambda w: len(str(w))).p > 0.05


def test_stability_is_that_of_a_hand() -> None:
    left, right = ["ab", "cd", "ef"], ["ab", "cx", "ef"]
    found = stability(left, right, normalised_distance)
    assert found.same == pytest.approx(2 / 3) and found.distance == pytest.approx(0.5 / 3)
    assert found.by_chance == 1 and found.n == 3
    with pytest.raises(ValueError, match="3 and 2"):
        stability(left, right[:2], normalised_distance)
