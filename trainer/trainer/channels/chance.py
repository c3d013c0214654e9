"""The states of the random number generators a checkpoint holds, taken at one moment and put back later."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch


class Chance(NamedTuple):
    """What transformers' Trainer writes into rng_state.pth; `cuda` is this process's devices'."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor]

    @classmethod
    def now(cls) -> Chance:
        """Return the present states."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Make these states the present ones."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
