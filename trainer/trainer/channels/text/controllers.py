"""What changes by feedback while a run goes on, and must survive a resume. Plain numbers, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from trainer.config_text import Reward


@dataclass
class Controller:
    """A number of the reward that follows the pass rate, towards its target.

    value      the number, within [lower, upper]
    rate       how fast it moves
    memory     weight of earlier steps' pass rate; 0 leaves the last step's alone
    pass_rate  the smoothed pass rate; None before the first step
    """

    name: ClassVar[str]
    value: float
    target: float
    rate: float
    lower: float
    upper: float
    memory: float
    pass_rate: float | None = None

    def update(self, pass_rate: float) -> None:
        """Take one step's pass rate in."""
        old = pass_rate if self.pass_rate is None else self.pass_rate
        self.pass_rate = self.memory * old + (1 - self.memory) * pass_rate
        self.value = min(self.upper, max(self.lower, self.moved(self.pass_rate)))

    def moved(self, pass_rate: float) -> float:
        """Return the next value, bounds apart."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what `load` needs to go on exactly."""
        return asdict(self)

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the settings stay those of this run's config."""
        self.value, self.pass_rate = state["value"], state["pass_rate"]


@dataclass
class Multiplier(Controller):
    """What passing is worth: raised while the pass rate is below its target, lowered above it.

    source  dual ascent on: least length, subject to pass rate >= target
    """

    name = "multiplier"

    def moved(self, pass_rate: float) -> float:
        return self.value + self.rate * (self.target - pass_rate)


@dataclass
class Budget(Controller):
    """The tokens a message may have: fewer by the share `rate` each step that holds the pass rate.

    It never grows again: below the target it waits for the student.
    """

    name = "budget"

    def moved(self, pass_rate: float) -> float:
        return self.value * (1 - self.rate) if pass_rate >= self.target else self.value


def controller_of(config: Reward) -> Controller | None:
    """Return what the configured kind of reward is steered by, at its start; None if nothing steers it."""
    match config.reward:
        case "lagrangian" | "relative":
            return Multiplier(
                config.multiplier, config.target_pass_rate, config.multiplier_rate,
                config.multiplier_min, config.multiplier_max, config.pass_rate_memory,
            )  # fmt: skip
        case "budget":
            start = config.budget_start or config.budget
            return Budget(
                start, config.target_pass_rate, config.budget_rate, config.budget, start,
                config.pass_rate_memory,
            )  # fmt: skip
        case _:
            return None
