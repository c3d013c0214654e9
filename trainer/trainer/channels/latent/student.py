"""The student: a language model without its head that speaks K vectors, autoregressively or all at once.

Each latent sees the whole context and every latent before it: mask, positions and cache are those of a model
that generates tokens. The frozen teacher is no part of it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.channels.latent.head import HiddenStateHead
from trainer.channels.latent.rollout import roll_out

Mode = Literal["autoregressive", "queries"]


class Spoken(NamedTuple):
    """What a student says: latents [N, K, D] behind the head, bop and eop [D]; data_latents as latents."""

    latents: Tensor
    bop: Tensor
    eop: Tensor
    data_latents: Tensor | None


class LatentStudent(nn.Module):
    """A base model, the bridge from a latent to the next input, and the head into the teacher's space.

    base     a causal LM without its language-model head
    width    of the teacher's embeddings
    vectors  K
    mode     autoregressive: K steps, each reading the one before; queries: K learned inputs in one pass
    recompute  save memory: in the backward pass compute each step again
    """

    def __init__(
        self, base: Any, width: int, vectors: int, *, mode: Mode = "autoregressive",
        head: HiddenStateHead | None = None, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        own = int(base.config.get_text_config().hidden_size)
        self.base, self.vectors, self.mode, self.recompute = base, vectors, mode, recompute
        if mode == "autoregressive":
            self.start = nn.Parameter(0.02 * torch.randn(own))
            self.h2e = nn.Sequential(nn.LayerNorm(own), nn.Linear(own, own, bias=False))
        else:
            size = base.get_input_embeddings().weight.detach().float().std().item()
            self.queries = nn.Parameter(size * torch.randn(vectors, own))
        self.projector = nn.Linear(own, width, bias=False) if own != width else nn.Identity()
        self.head = head if head is not None else HiddenStateHead(width)
        self.bop, self.eop = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, data: Tensor | None = None) -> Spoken:
        """Return a batch's latent messages, and what the same head makes of the stored hidden states.

        input_ids, attention_mask  [N, T] padded on the left
        data                       [N, K, D] stored states of the teacher; they get no gradient, no dropout
        """
        latents = self.head(self.projector(self.raw(input_ids, attention_mask)))
        return Spoken(latents, self.bop, self.eop, None if data is None else self.data_latents(data))

    def raw(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last layer's states that are the latents, in front of projector and head, [N, K, Hs]."""
        if self.mode == "autoregressive":
            return roll_out(
                self.base, self.start, self.h2e, self.vectors, input_ids, attention_mask,
                recompute=self.recompute and torch.is_grad_enabled(),
            )  # fmt: skip
        rows, made = len(input_ids), self.queries.to(self.base.get_input_embeddings().weight.dtype)
        context = self.base.get_input_embeddings()(input_ids)
        mask = torch.cat([attention_mask, attention_mask.new_ones(rows, self.vectors)], dim=1)
        states: Tensor = self.base(
            inputs_embeds=torch.cat([context, made.expand(rows, -1, -1)], dim=1), attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0), use_cache=False,
        ).last_hidden_state  # fmt: skip
        return states[:, -self.vectors :]

    @torch.no_grad()
    def data_latents(self, data: Tensor) -> Tensor:
        """Return stored hidden states [N, K, D] as latents: by the same head, without chance."""
        training = self.head.training
        self.head.eval()
        found: Tensor = self.head(data)
        self.head.train(training)
        return found
