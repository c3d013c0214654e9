"""Programs sampled many at a time: a prompt is read once for all of its programs, and a finished one leaves
the batch. transformers' `generate` reads each prompt again for each program and goes on until the last one
ends; on two CPU cores that takes about three times as long (`python benchmarks/programs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

# Taking rows out of a batch copies its cache: it is done when the share that has ended is worth it.
WORTH = 0.1


def sample(
    model: Any, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int,
    ends: Collection[int], pad: int, other: Callable[..., Any] | None = None,
    share: torch.Tensor | None = None,
) -> list[list[int]]:  # fmt: skip
    """Continue each prompt until a token that ends a program, or max_tokens.

    model        causal, its cache a DynamicCache; in the mode it is to sample in
    prompts      [B] token ids; the same one as often as programs are wanted, side by side
    temperature  0 is greedy; else draws from softmax(logits / temperature), with torch's global generator
    other        a second model of the same shape, its vocabulary the same, to draw between the two
    share        [B] of its logarithmic probabilities in each program's; the rest is the first one's
    returns      [B] token ids, the one that ends the program included
    """
    runs = [(list(prompt), len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
    width, device = max(len(prompt) for prompt, _ in runs), model.device
    ids = torch.tensor([[pad] * (width - len(p)) + p for p, _ in runs], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in runs], device=device)
    readers = [model] if other is None else [model, other]
    caches = [DynamicCache(config=model.config.get_text_config(decoder=True)) for _ in readers]

    def read(ids: torch.Tensor, mask: torch.Tensor, at: torch.Tensor) -> list[torch.Tensor]:
        return [
            reader(
                input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            for reader, cache in zip(readers, caches, strict=True)
        ]  # fmt: skip

    def keep(rows: torch.Tensor) -> None:
        for cache in caches:
            cache.batch_select_indices(rows)

    written: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad():
        at = (mask.cumsum(1) - 1).clamp(min=0)
        logits = read(ids, mask, at)
        wide = torch.repeat_interleave(torch.tensor([n for _, n in runs], device=device))
        keep(wide)
        logits, mask, at = [of[wide] for of in logits], mask[wide], at[wide, -1:]
        places, live = list(range(len(prompts))), [True] * len(prompts)
        for _ in range(max_tokens):
            chosen = _choose(_between(logits, share), temperature)
            for row, token in enumerate(chosen.tolist()):
                if live[row]:
                    written[places[row]].append(token)
                    live[row] = token not in ends
            left = sum(live)
            if not left:
                break
            if left <= (1 - WORTH) * len(live):
                kept = torch.tensor([row for row, goes_on in enumerate(live) if goes_on], device=device)
                keep(kept)
                chosen, mask, at = chosen[kept], mask[kept], at[kept]
                share = None if share is None else share[kept]
                places, live = [places[row] for row in kept.tolist()], [True] * left
            mask, at = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), at + 1
            logits = read(chosen[:, None], mask, at)
    return written


def _between(logits: Sequence[torch.Tensor], share: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [B, V] of one model, or between those of two."""
    if share is None:
        return logits[0]
    near, far = (of.float().log_softmax(-1) for of in logits)
    return torch.lerp(near, far, share.to(near)[:, None])


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return a token for each row [B] of logits [B, V]."""
    if not temperature:
        return logits.argmax(-1)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1)[:, 0]
