"""K latents one after another, with a cache; the gradient goes through all K steps.

With `recompute` the backward pass runs each step again from what it read, so that of a step only its keys
and values are kept. transformers' own activation checkpointing cannot be used here: it takes the cache away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from trainer.config import ConfigError


def roll_out(
    base: Any, start: Tensor, bridge: nn.Module, vectors: int, input_ids: Tensor, attention_mask: Tensor, *,
    recompute: bool = False,
) -> Tensor:  # fmt: skip
    """Return the states of K new positions behind the context; each position reads the state before it.

    start           [H] what the first position reads
    bridge          from a state to the next position's input, [N, 1, H] -> [N, 1, H]
    input_ids, attention_mask  [N, T] padded on the left; masked tokens have no position and are not seen
    returns         [N, K, H], after the final norm
    """
    reader = _Recomputing(base) if recompute else _Plain(base)
    positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    reader.read(base.get_input_embeddings()(input_ids), attention_mask, positions)
    mask, at = attention_mask, attention_mask.sum(dim=1, keepdim=True)
    given = start.to(base.get_input_embeddings().weight.dtype).expand(len(input_ids), 1, -1)
    states: list[Tensor] = []
    for _ in range(vectors):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        states.append(reader.read(given, mask, at)[:, -1:])
        given, at = bridge(states[-1]).to(given.dtype), at + 1
    return torch.cat(states, dim=1)


class _Plain:
    """Reads with the model's own cache; autograd keeps every activation."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self._cache = DynamicCache(config=base.config)

    def read(self, inputs: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        found: Tensor = self._base(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state  # fmt: skip
        return found


class _Recomputing:
    """Reads so that only keys and values are kept, each once: a step gets them as parts, in their order."""

    def __init__(self, base: Any) -> None:
        self._base, self._parts = base, list[tuple[Tensor, ...]]()

    def read(self, inputs: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        before = len(self._parts)

        def step(given: Tensor, seen: Tensor, at: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
            cache, kept = DynamicCache(), 0
            layers = len(flat) // before if before else 0
            for number in range(0, layers, 2):
                keys = torch.cat([flat[part * layers + number] for part in range(before)], dim=-2)
                values = torch.cat([flat[part * layers + number + 1] for part in range(before)], dim=-2)
                kept = keys.shape[-2]
                cache.update(keys, values, number // 2)
            states = self._base(
                inputs_embeds=given, attention_mask=seen, position_ids=at, past_key_values=cache,
                use_cache=True,
            ).last_hidden_state  # fmt: skip
            new = [part[:, :, kept:] for layer in cache.layers for part in (layer.keys, layer.values)]
            return (states, *new)

        flat = [tensor for part in self._parts for tensor in part]
        # A model in training with its own checkpointing on would drop the cache; ours is around it instead.
        states, *new = checkpoint(step, inputs, mask, positions, *flat, use_reentrant=False)
        self._parts.append(tuple(new))
        found: Tensor = states
        return found


def check_recomputable(base: Any) -> None:
    """Raise ConfigError for a model that keeps other things between steps than every key and value."""
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"gradient_checkpointing with layers {', '.join(sorted(kinds))}: the student's steps can be "
            "computed again only where all layers keep full keys and values; leave it out, lower K, or take "
            "--student_mode queries"
        )
