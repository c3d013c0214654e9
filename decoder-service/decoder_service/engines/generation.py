"""The loop that continues a left-padded batch token by token, and lets go of rows that have ended.

Equal to transformers' `generate()` where that continues greedily (a test compares them), without what a
model's generation_config would add unasked (repetition penalties, top_k). Rows that have ended leave the
batch: with programs of 8 to 120 tokens that is most of the work of a batch's last third. So do rows that
nobody wants any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from decoder_service.engines.engine import Wanted, always
from decoder_service.replies import program_of
from shared.wire import Program

# Letting rows go copies the cache of those that stay: done when at least this share has ended.
_SHARE_ENDED = 1 / 8

Choose = Callable[[Tensor, Tensor, int], Tensor]


class Prompts(NamedTuple):
    """A left-padded batch. first: `input_ids` [R, T] or `inputs_embeds` [R, T, D]; mask, positions [R, T]."""

    first: dict[str, Tensor]
    mask: Tensor
    positions: Tensor


class Continuation(NamedTuple):
    """token_ids without the stop token; `stopped`: whether there was one; `dropped`: no longer wanted."""

    token_ids: list[int]
    stopped: bool
    dropped: bool = False


def as_program(text: str, continuation: Continuation) -> Program:
    """Return the program in a reply, with the tokens the generator spent on it."""
    return Program(
        text=program_of(text),
        tokens=len(continuation.token_ids) + continuation.stopped,
        finish_reason="stop" if continuation.stopped else "length",
    )


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Prompts:
    """Return the prompts flush right, none of them empty."""
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    known = torch.tensor(mask, device=device)
    positions = (known.cumsum(dim=-1) - 1).clamp_(min=0)
    return Prompts({"input_ids": torch.tensor(ids, device=device)}, known, positions)


@torch.inference_mode()
def continue_batch(
    model: Any,
    prompts: Prompts,
    *,
    choose: Choose,
    max_new_tokens: int,
    stop_ids: Collection[int],
    wanted: Wanted = always,
) -> list[Continuation]:
    """Continue each prompt until a stop token or max_new_tokens.

    prompts   [R] rows; lengths may differ
    choose    (logits [A, V], rows [A], step) -> tokens [A], where rows are the A places still going on
    wanted    asked for each row after each token; a row that is not wanted any more is let go
    returns   [R] continuations, in order
    raises    torch.OutOfMemoryError as the device does
    """
    device, count = model.device, len(prompts.mask)
    inputs, positions = prompts.first, prompts.positions
    prompt_tokens = prompts.mask.shape[1]
    mask = torch.cat([prompts.mask, prompts.mask.new_ones(count, max_new_tokens)], dim=-1)
    cache = DynamicCache(config=model.config)
    outputs: list[list[int]] = [[] for _ in range(count)]
    stopped, dropped = [False] * count, [False] * count
    alive = list(range(count))
    rows = torch.arange(count, device=device)
    for step in range(max_new_tokens):
        logits = model(
            **inputs,
            attention_mask=mask[:, : prompt_tokens + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = choose(logits, rows, step)
        going_on = []
        for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
            if stopped[row] or dropped[row]:
                continue
            stopped[row] = token in stop_ids
            if not stopped[row]:
                outputs[row].append(token)
                dropped[row] = not wanted(row)
                if not dropped[row]:
                    going_on.append(place)
        if not going_on:
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        if len(alive) - len(going_on) >= max(1, len(alive) * _SHARE_ENDED):
            kept = torch.tensor(going_on, device=device)
            cache.batch_select_indices(kept)
            ids, positions, mask, rows = ids[kept], positions[kept], mask[kept], rows[kept]
            alive = [alive[place] for place in going_on]
        inputs = {"input_ids": ids}
    return [Continuation(*row) for row in zip(outputs, stopped, dropped, strict=True)]
