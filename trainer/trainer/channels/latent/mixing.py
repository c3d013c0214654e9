"""Interlat's curriculum: in training, messages whose end is still the plan in the teacher's embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The kept part of a mixed message, in tenths.
_TENTHS = 9


def mixed(latents: Tensor, plans: Sequence[Tensor | None], fill: Tensor, share: float) -> Tensor:
    """Return messages of which a share has only its first vectors kept; behind them stands the plan.

    latents  [N, K, D]; the gradient flows through the vectors that are kept
    plans    [N] the teacher's embeddings of each plan [T, D], cut or filled to K; None: the row stays whole
    fill     [D] what stands behind a plan shorter than K
    share    of the rows that are mixed, each by chance; torch's CPU generator draws them and r
    returns  [N, K, D]; a mixed row keeps its first round(r K) vectors, r from 0.1, 0.2 .. 0.9
    source   Interlat, latent and plan mixing; seeds of the latent channel, B5
    """
    count, vectors, _ = latents.shape
    drawn = torch.rand(count) < share
    kept = (torch.randint(1, _TENTHS + 1, (count,)) / (_TENTHS + 1) * vectors).round().long()
    kept[~drawn | torch.tensor([plan is None for plan in plans])] = vectors
    given = torch.stack([
        fill.detach().expand(vectors, -1) if plan is None
        else torch.cat([plan.to(fill.device), fill.detach().expand(vectors, -1)])[:vectors]
        for plan in plans
    ])  # fmt: skip
    own = torch.arange(vectors) < kept[:, None]
    return torch.where(own.to(latents.device)[..., None], latents, given.to(latents.device, latents.dtype))
