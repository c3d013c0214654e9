"""What steers a reward, step by step by hand, and over a resume."""

from __future__ import annotations

import pytest

from trainer.channels.text.controllers import Budget, Controller, Multiplier, controller_of
from trainer.config_text import Reward

SHRINKING = {"reward": "budget", "budget": 10, "budget_start": 20, "budget_rate": 0.25}


def controller(**settings: object) -> Controller:
    usual = {"reward": "relative", "multiplier_rate": 0.5, "target_pass_rate": 0.9}
    found = controller_of(Reward.model_validate({**usual, **settings}))
    assert found is not None
    return found


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


def test_a_budget_shrinks_while_the_pass_rate_holds_and_waits_while_it_does_not() -> None:
    found = controller(**SHRINKING)
    seen = []
    for rate in (0.9, 0.89, 1.0, 0.0, 1.0):
        found.update(rate)
        seen.append(found.value)
    # 20 x 0.75, and x 0.75 again; the third time that would be 8.4, below the budget itself.
    assert seen == pytest.approx([15, 15, 11.25, 11.25, 10])


def test_a_budget_without_a_start_stays_what_it_is() -> None:
    found = controller(reward="budget", budget=12)
    for rate in (0.0, 1.0):
        found.update(rate)
        assert found.value == 12


@pytest.mark.parametrize(
    ("kind", "steered"),
    [
        ("ratio", None),
        ("log_ratio", None),
        ("budget", Budget),
        ("lagrangian", Multiplier),
        ("relative", Multiplier),
    ],
)
def test_each_kind_of_reward_has_its_controller(kind: str, steered: type[Controller] | None) -> None:
    found = controller_of(Reward.model_validate({"reward": kind}))
    assert (type(found) if found else None) is steered


@pytest.mark.parametrize("settings", [{}, SHRINKING])
def test_a_restored_controller_goes_on_as_if_it_had_never_stopped(settings: dict[str, object]) -> None:
    whole, first = (controller(pass_rate_memory=0.5, **settings) for _ in range(2))
    for rate in (0.2, 0.9, 0.7):
        whole.update(rate)
        first.update(rate)
    second = controller(pass_rate_memory=0.5, **settings)
    second.load(first.state())
    for rate in (0.1, 1.0):
        whole.update(rate)
        second.update(rate)
    assert second == whole
