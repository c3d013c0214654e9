"""The loop that continues a left-padded batch token by token, and lets go of rows that have ended.

Equal to transformers' `generate()` where that continues greedily (a test compares them), without what a
model's generation_config would add unasked (repetition penalties, top_k). Rows that have ended leave the
batch: with programs of 8 to 120 tokens that is most of the work of a batch's last third.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

# Letting rows go copies the cache of those that stay: done when at least this share has ended.
_SHARE_ENDED = 1 / 8

Choose = Callable[[Tensor, Tensor, int], Tensor]


class Continuation(NamedTuple):
    """token_ids without the stop token; `stopped` says whether there was one."""

    token_ids: list[int]
    stopped: bool


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, both [R, T] with T the longest prompt, prompts flush right."""
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@torch.inference_mode()
def continue_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    choose: Choose,
    max_new_tokens: int,
    stop_ids: Collection[int],
    pad_id: int,
) -> list[Continuation]:
    """Continue each prompt until a stop token or max_new_tokens.

    prompts   [R] token ids, none empty; lengths may differ
    choose    (logits [A, V], rows [A], step) -> tokens [A], where rows are the A places still going on
    returns   [R] continuations, in order
    raises    torch.OutOfMemoryError as the device does
    """
    device = model.device
    ids, mask = left_padded(prompts, pad_id, device)
    positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
    mask = torch.cat([mask, mask.new_ones(len(prompts), max_new_tokens)], dim=-1)
    prompt_tokens = ids.shape[1]
    cache = DynamicCache(config=model.config)
    outputs: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)
    alive = list(range(len(prompts)))
    rows = torch.arange(len(prompts), device=device)
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, : prompt_tokens + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = choose(logits, rows, step)
        going_on = []
        for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
            if stopped[row]:
                continue
            stopped[row] = token in stop_ids
            if not stopped[row]:
                outputs[row].append(token)
                going_on.append(place)
        if not going_on:
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        if len(alive) - len(going_on) >= max(1, len(alive) * _SHARE_ENDED):
            kept = torch.tensor(going_on, device=device)
            cache.batch_select_indices(kept)
            ids, positions, mask, rows = ids[kept], positions[kept], mask[kept], rows[kept]
            alive = [alive[place] for place in going_on]
    return [Continuation(*pair) for pair in zip(outputs, stopped, strict=True)]
