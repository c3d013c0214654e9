"""The multiplier, step by step by hand, and over a resume."""

from __future__ import annotations

import pytest

from trainer.channels.text.controllers import Multiplier
from trainer.config_text import Reward


def controller(**settings: object) -> Multiplier:
    return Multiplier.of(Reward.model_validate({"multiplier_rate": 0.5, "target_pass_rate": 0.9, **settings}))


def test_the_multiplier_rises_below_the_target_and_falls_above_it() -> None:
    found = controller(multiplier=1.0)
    found.update(0.5)
    assert found.value == pytest.approx(1.2)
    found.update(1.0)
    assert found.value == pytest.approx(1.15)


def test_the_multiplier_stays_within_its_bounds() -> None:
    found = controller(multiplier=1.0, multiplier_min=0.9, multiplier_max=1.1)
    for _ in range(5):
        found.update(0.0)
    assert found.value == 1.1
    for _ in range(50):
        found.update(1.0)
    assert found.value == 0.9


def test_memory_smooths_the_pass_rate() -> None:
    found = controller(multiplier=1.0, pass_rate_memory=0.75)
    found.update(0.8)
    found.update(0.4)
    assert found.pass_rate == pytest.approx(0.75 * 0.8 + 0.25 * 0.4)


def test_a_restored_controller_goes_on_as_if_it_had_never_stopped() -> None:
    whole, first = controller(pass_rate_memory=0.5), controller(pass_rate_memory=0.5)
    for rate in (0.2, 0.9, 0.7):
        whole.update(rate)
        first.update(rate)
    second = controller(pass_rate_memory=0.5)
    second.load(first.state())
    for rate in (0.1, 1.0):
        whole.update(rate)
        second.update(rate)
    assert second == whole
