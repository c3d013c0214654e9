"""The head that turns raw latents into vectors the frozen teacher can read. Knows no model and no service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import ConfigError

Form = Literal["seed", "interlat"]
_CALIBRATION_SEED = 20251209


class AdaptiveProjection(nn.Module):
    """out = s (a x + L2(LN(GELU(L1 x)))) with learned scalars s = 0.1 and a = 0.2: starts small.

    source  Interlat; seeds of the latent channel, B1 step 4 (the residual a x is what L1 reads too)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        # Of one element, not of none: DeepSpeed cannot broadcast a parameter without a dimension.
        self.residual, self.size = nn.Parameter(torch.tensor([0.2])), nn.Parameter(torch.tensor([0.1]))
        self.register_load_state_dict_pre_hook(_as_vectors)
        nn.init.normal_(self.first.weight, std=0.02)
        nn.init.xavier_normal_(self.second.weight, gain=0.01)
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Project [N, K, D] to [N, K, D]."""
        kept = self.residual * values
        found: Tensor = self.size * (kept + self.second(self.norm(functional.gelu(self.first(kept)))))
        return found


def _as_vectors(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    """Published heads have these two without a dimension."""
    for name in (f"{prefix}residual", f"{prefix}size"):
        if name in state and state[name].ndim == 0:
            state[name] = state[name].reshape(1)


class HiddenStateHead(nn.Module):
    """Self-attention over a message's vectors, a projection, and in the seed's form a GLU stack.

    width  of the teacher's embeddings
    form   seed: with the GLU stack; interlat: without
    source seeds of the latent channel, B1. The scale in front of the output is ours: without it the seed's
           form starts 20 times as large as an embedding
    """

    scale: Tensor

    def __init__(self, width: int, *, form: Form = "seed", heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"head_heads={heads} does not divide the teacher's width {width}; take a divisor"
            )
        self.form = form
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm_mid = nn.LayerNorm(width)
        self.projection = AdaptiveProjection(width)
        self.stack: nn.Module = nn.Identity()
        if form == "seed":
            self.stack = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GLU(), nn.LayerNorm(width), nn.Dropout(dropout),
                nn.Linear(width, width),
            )  # fmt: skip
        self.register_buffer("scale", torch.ones(()))

    def forward(self, raw: Tensor) -> Tensor:
        """Return latents [N, K, D] for raw ones [N, K, D]; a vector sees all others, whatever their order."""
        normal = self.norm_in(raw)
        mixed, _ = self.attention(normal, normal, normal, need_weights=False)
        found: Tensor = self.scale * self.stack(self.projection(self.norm_mid(normal + mixed)))
        return found

    @torch.no_grad()
    def calibrate(self, rms: float) -> None:
        """Scale the output so that it has an embedding's size.

        rms     root mean square of the teacher's embedding table
        """
        chance = torch.Generator().manual_seed(_CALIBRATION_SEED)
        probe = torch.randn(16, 32, self.norm_in.normalized_shape[0], generator=chance)
        training = self.training
        self.eval()
        self.scale.fill_(1.0)
        made = self(probe.to(self.scale.device))
        self.train(training)
        self.scale.fill_(rms / float(made.square().mean().sqrt()))


def load_head(head: HiddenStateHead, file: Path) -> None:
    """Load a head's weights, from a file of a head alone or from a student's checkpoint.

    file    .safetensors, or what torch.save wrote; a folder means its model.safetensors
    raises  ConfigError naming the file and the first weight that does not fit
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = file / "model.safetensors" if file.is_dir() else file
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ConfigError(f"hidden_head_ckpt={str(file)!r}: cannot be read ({error})") from error
    inside = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    state, wanted = inside or state, head.state_dict()
    for name, value in wanted.items():
        scalar = name in state and state[name].ndim == 0 and value.numel() == 1
        if name not in state or (state[name].shape != value.shape and not scalar):
            there = f"shape {tuple(state[name].shape)}" if name in state else "missing"
            raise ConfigError(
                f"hidden_head_ckpt={str(file)!r}: {name} is {there}, needed is {tuple(value.shape)}; it must "
                f"be a head of the same teacher width and the same --head ({head.form})"
            )
    head.load_state_dict({name: state[name] for name in wanted})
