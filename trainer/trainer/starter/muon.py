"""Muon for a small model trained from scratch: torch's own for the hidden matrices, AdamW for all else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers as one, for whatever schedules, saves and resumes one.

    Source: Jordan et al., Muon (2024); its steps scaled to AdamW's as in Liu et al., arXiv:2502.16982.
    """

    def __init__(self, model: nn.Module, *, muon_rate: float, adamw_rate: float) -> None:
        inner = {id(p) for p in _hidden(model)}
        others = [p for p in model.parameters() if id(p) not in inner]
        self.both: list[torch.optim.Optimizer] = [
            torch.optim.Muon(_hidden(model), lr=muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=adamw_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        super().__init__([group for one in self.both for group in one.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both."""
        loss = closure() if closure is not None else None
        for one in self.both:
            one.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"both": [one.state_dict() for one in self.both]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states of both."""
        for one, state in zip(self.both, state_dict["both"], strict=True):
            one.load_state_dict(state)
        self.param_groups = [group for one in self.both for group in one.param_groups]


def _hidden(model: nn.Module) -> list[nn.Parameter]:
    """The matrices between embedding and head: what Muon is for."""
    ends = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]
