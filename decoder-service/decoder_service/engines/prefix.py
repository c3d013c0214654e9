"""What every prompt begins with, read once: the decoder's role, the examples, the template's first marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

# Below this, reading it again costs less than copying it.
_WORTH_TOKENS = 16


class Prefix:
    """The keys and values of a prefix. A prompt that begins otherwise is read from where it differs."""

    def __init__(self, token_ids: Sequence[int], states: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._token_ids = tuple(token_ids)
        self.states = states

    def left_to_read(self, prompts: Sequence[Sequence[int]]) -> int:
        """Return how many last tokens of each prompt must still be read; at least one."""
        most = 1
        for prompt in prompts:
            if tuple(prompt[: len(self._token_ids)]) == self._token_ids:
                shared = len(self._token_ids)
            else:
                shared = shared_tokens([prompt, self._token_ids])
            most = max(most, len(prompt) - shared)
        return most


def shared_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Return with how many tokens all of the prompts begin."""
    count = 0
    for tokens in zip(*prompts, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


@torch.inference_mode()
def read_prefix(model: Any, prompts: Sequence[Sequence[int]]) -> Prefix:
    """Read what all prompts begin with; nothing where that is too short to be worth it.

    prompts   of messages that begin differently
    """
    count = shared_tokens(prompts)
    if count < _WORTH_TOKENS:
        return Prefix((), ())
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([list(prompts[0][:count])], device=model.device)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    # Copies: torch must not keep what a larger buffer was part of.
    held: list[Any] = list(cache.layers)
    states = [(layer.keys.clone(), layer.values.clone()) for layer in held]
    return Prefix(prompts[0][:count], states)
