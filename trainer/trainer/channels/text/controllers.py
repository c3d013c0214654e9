"""What changes by feedback while a run goes on, and must survive a resume. Plain numbers, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainer.config_text import Reward


@dataclass
class Multiplier:
    """What passing is worth, raised while the pass rate is below its target and lowered above it.

    value      the multiplier, within [lower, upper]
    pass_rate  the smoothed pass rate; None before the first step
    source     dual ascent on: least length, subject to pass rate >= target
    """

    value: float
    target: float
    rate: float
    lower: float
    upper: float
    memory: float
    pass_rate: float | None = None

    @classmethod
    def of(cls, config: Reward) -> Multiplier:
        """Return the controller a config describes, at its start."""
        return cls(
            config.multiplier, config.target_pass_rate, config.multiplier_rate,
            config.multiplier_min, config.multiplier_max, config.pass_rate_memory,
        )  # fmt: skip

    def update(self, pass_rate: float) -> None:
        """Take one step's pass rate in. With memory 0 the last step alone counts."""
        old = pass_rate if self.pass_rate is None else self.pass_rate
        self.pass_rate = self.memory * old + (1 - self.memory) * pass_rate
        self.value = min(self.upper, max(self.lower, self.value + self.rate * (self.target - self.pass_rate)))

    def state(self) -> dict[str, Any]:
        """Return what `load` needs to go on exactly."""
        return asdict(self)

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the settings stay those of this run's config."""
        self.value, self.pass_rate = state["value"], state["pass_rate"]
