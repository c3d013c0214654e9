"""Muon for a small model trained from scratch on CPU: for the hidden matrices, with AdamW for all else.

torch's own Muon computes in bfloat16, which a processor without that type only imitates: there its step takes
three times as long as forward and backward pass together. This one computes in float32, all matrices of one
shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

# Jordan et al., Muon (2024): the quintic iteration whose slope at zero is steepest, and how often it runs.
COEFFICIENTS, ITERATIONS, EPSILON = (3.4445, -4.7750, 2.0315), 5, 1e-7


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices [N, R, C] with their singular values near 1: about 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal.

    Source: Jordan et al., Muon (2024); its steps scaled to AdamW's as in Liu et al., arXiv:2502.16982.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[matrix.shape].append(matrix)
            for shape, matrices in shapes.items():
                found = orthogonal(torch.stack([self._direction(m, group["momentum"]) for m in matrices]))
                scale = 0.2 * max(shape) ** 0.5
                for matrix, direction in zip(matrices, found, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(direction, alpha=-group["lr"] * scale)
        return loss

    def _direction(self, matrix: nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's: the gradient, and what its mean will be."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        mean = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        mean.lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers as one, for whatever schedules, saves and resumes one."""

    def __init__(self, model: nn.Module, *, muon_rate: float, adamw_rate: float) -> None:
        inner = {id(p) for p in hidden(model)}
        others = [p for p in model.parameters() if id(p) not in inner]
        self.both: list[torch.optim.Optimizer] = [
            Muon(hidden(model), lr=muon_rate),
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


def hidden(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices between embedding and head: what Muon is for."""
    ends = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]
