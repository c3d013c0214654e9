"""Programs sampled many at a time: a prompt is read once for all of its programs, and a finished one leaves
the batch. transformers' `generate` reads each prompt again for each program and goes on until the last one
ends; on two CPU cores that takes about three times as long (`python benchmarks/programs.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache

# Taking rows out of a batch copies its cache: it is done when the share that has ended is worth it.
WORTH = 0.1


def sample(
    model: Any, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int,
    ends: Collection[int], pad: int,
) -> list[list[int]]:  # fmt: skip
    """Continue each prompt until a token that ends a program, or max_tokens.

    model        causal, its cache a DynamicCache; in the mode it is to sample in
    prompts      [B] token ids; the same one as often as programs are wanted, side by side
    temperature  0 is greedy; else draws from softmax(logits / temperature), with torch's global generator
    returns      [B] token ids, the one that ends the program included
    """
    runs = [(list(prompt), len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
    width, device = max(len(prompt) for prompt, _ in runs), model.device
    ids = torch.tensor([[pad] * (width - len(p)) + p for p, _ in runs], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in runs], device=device)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    written: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad():
        at = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        wide = torch.repeat_interleave(torch.tensor([n for _, n in runs], device=device))
        cache.batch_select_indices(wide)
        logits, mask, at = logits[wide], mask[wide], at[wide, -1:]
        places, live = list(range(len(prompts))), [True] * len(prompts)
        for _ in range(max_tokens):
            chosen = _choose(logits, temperature)
            for row, token in enumerate(chosen.tolist()):
                if live[row]:
                    written[places[row]].append(token)
                    live[row] = token not in ends
            left = sum(live)
            if not left:
                break
            if left <= (1 - WORTH) * len(live):
                kept = torch.tensor([row for row, goes_on in enumerate(live) if goes_on], device=device)
                cache.batch_select_indices(kept)
                chosen, mask, at = chosen[kept], mask[kept], at[kept]
                places, live = [places[row] for row in kept.tolist()], [True] * left
            mask, at = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), at + 1
            logits = model(
                input_ids=chosen[:, None], attention_mask=mask, position_ids=at, past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]  # fmt: skip
    return written


def _choose(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return a token for each row [B] of logits [B, V]."""
    if not temperature:
        return logits.argmax(-1)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1)[:, 0]
