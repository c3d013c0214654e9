"""Completions sampled many at a time, the beginnings that they share computed once.

transformers' `generate` reads each prompt again for each completion and goes on until the last one ends. Of
one prompt's completions many begin alike, more so the surer a policy is: each distinct beginning is one row
of the batch here, which divides where the completions that go through it draw different tokens. They are
drawn independently of one another; what is saved is the rows (`python benchmarks/messages.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Columns that a cache has room for beyond those it needs; rows come with half as many again.
SPARE = 32


class RoomyLayer(DynamicLayer):
    """A layer's keys and values with room beside them: a token is written in, a row copied, where it lies.

    DynamicLayer, of which this is one to its users, copies all of both for either.
    """

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._wide: list[torch.Tensor] = [key_states[..., :0, :], value_states[..., :0, :]]
            self._size = [len(key_states), 0]
        rows, start = self._size
        end = start + key_states.shape[-2]
        self._fit(rows, end)
        for whole, new in zip(self._wide, (key_states, value_states), strict=True):
            whole[:rows, :, start:end] = new
        return self._shown(rows, end)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let row i be what row indices[i] was."""
        columns = self._size[1]
        self._fit(len(indices), columns)
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for whole in self._wide:
            whole[moved, :, :columns] = whole[indices[moved], :, :columns]
        self._shown(len(indices), columns)

    def _fit(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns."""
        high, _, wide, _ = shape = list(self._wide[0].shape)
        if rows <= high and columns <= wide:
            return
        shape[0] = high if rows <= high else rows + rows // 2
        shape[2] = wide if columns <= wide else columns + max(SPARE, columns // 2)
        before, held = self._wide, self._size[1]
        self._wide = [whole.new_empty(*shape[:3], whole.shape[3]) for whole in before]
        for new, old in zip(self._wide, before, strict=True):
            new[:high, :, :held] = old[:, :, :held]

    def _shown(self, rows: int, columns: int) -> tuple[Any, Any]:
        self._size = [rows, columns]
        self.keys, self.values = (whole[:rows, :, :columns] for whole in self._wide)
        return self.keys, self.values


def roomy_cache(model: Any) -> DynamicCache:
    """Return an empty cache for a model; layers of another kind, as of a sliding window, stay as they are."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def placed(parents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which row [R] each branch takes, and which old row [R] each row goes on from; what can stays.

    parents  [R] the old row of each branch, in rising order
    """
    n, stays = len(parents), torch.ones_like(parents, dtype=torch.bool)
    stays[1:] = parents[1:] != parents[:-1]
    stays &= parents < n
    free = torch.ones(n, dtype=torch.bool, device=parents.device)
    free[parents[stays]] = False
    rows = torch.empty_like(parents)
    rows[stays], rows[~stays] = parents[stays], free.nonzero()[:, 0]
    sources = torch.empty_like(parents)
    sources[rows] = parents
    return rows, sources


def sample(
    model: Any, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int,
    ends: Collection[int], pad: int, other: Callable[..., Any] | None = None,
    share: torch.Tensor | None = None,
) -> list[list[int]]:  # fmt: skip
    """Continue each prompt until a token that ends a completion, or max_tokens.

    model        causal, its cache a DynamicCache; in the mode it is to sample in
    prompts      [B] token ids; the same one as often as completions are wanted, side by side
    temperature  0 is greedy; else draws from softmax(logits / temperature), with torch's global generator
    other        a second model of the same shape, its vocabulary the same, to draw between the two
    share        [B] of its logarithmic probabilities in each completion's; the rest is the first one's
    returns      [B] token ids, the one that ends the completion included
    """
    parts = [0.0] * len(prompts) if share is None else share.tolist()
    runs = [(*run, len(list(same))) for run, same in groupby(zip(map(tuple, prompts), parts, strict=True))]
    width, device = max(len(prompt) for prompt, *_ in runs), model.device
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p, *_ in runs], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, *_ in runs], device=device)
    weight = torch.tensor([part for _, part, _ in runs], device=device)
    stops = torch.tensor(sorted(ends), device=device)
    readers = [(model, roomy_cache(model))] + ([] if other is None else [(other, roomy_cache(model))])
    written = torch.full((len(prompts), max_tokens), -1)
    # Which completion [L] of those that go on, and its row of the batch.
    places = torch.arange(len(prompts), device=device)
    row = torch.repeat_interleave(torch.tensor([n for *_, n in runs], device=device))
    with torch.no_grad():
        at, tokens = (mask.cumsum(1) - 1).clamp(min=0), ids
        for step in range(max_tokens):
            logits = [
                reader(
                    input_ids=tokens, attention_mask=mask, position_ids=at, past_key_values=cache,
                    use_cache=True, logits_to_keep=1,
                ).logits[:, -1]
                for reader, cache in readers
            ]  # fmt: skip
            chosen = _choose(_between(logits, weight), row, temperature)
            written[places.cpu(), step] = chosen.cpu()
            goes_on = ~torch.isin(chosen, stops)
            places, row, chosen = places[goes_on], row[goes_on], chosen[goes_on]
            if not len(places) or step + 1 == max_tokens:
                break
            vocabulary = logits[0].shape[-1]
            branches, branch = torch.unique(row * vocabulary + chosen, return_inverse=True)
            rows, sources = placed(branches // vocabulary)
            row, tokens = rows[branch], torch.empty_like(rows)[:, None]
            tokens[rows, 0] = branches % vocabulary
            for _, cache in readers:
                cache.batch_select_indices(sources)
            mask, at, weight = mask[sources], at[sources, -1:] + 1, weight[sources]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return [[token for token in tokens if token >= 0] for tokens in written.tolist()]


def _between(logits: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Return the logits [R, V] of one model, or between those of two, the second one's weight [R]."""
    if len(logits) == 1:
        return logits[0]
    near, far = (of.float().log_softmax(-1) for of in logits)
    return torch.lerp(near, far, weight.to(near)[:, None])


def _choose(logits: torch.Tensor, row: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return a token for each completion [L], of the logits [R, V] of its row [L]."""
    if not temperature:
        return logits.argmax(-1)[row]
    # Where a uniform number falls among the cumulated probabilities: one draw for all tokens.
    upto = (logits.float() / temperature).softmax(-1).cumsum(-1)[row]
    drawn = torch.rand(len(row), 1, dtype=upto.dtype, device=upto.device) * upto[:, -1:]
    return torch.searchsorted(upto, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
