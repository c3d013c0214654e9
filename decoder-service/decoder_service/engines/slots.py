"""Keys and values of rows that come and go: one buffer a layer, written in place.

Row r of the buffer belongs to one prompt; its tokens stand in columns starts[r] .. ends[r], so rows of
different ages continue together. transformers' DynamicCache copies all of itself for every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

_FIRST_COLUMNS = 64


@dataclass
class _Place:
    """Where the next forward writes: whole columns past..seen of rows first..last, or one column a row."""

    first: int = 0
    last: int = 0
    past: int = 0
    seen: int = 0
    rows: int = 0
    columns: int = 0
    used: int = 0
    index: Tensor | None = None
    ends: Tensor | None = None


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, [rows, heads, columns, width]; zero where nothing was written."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, place: _Place) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self._empty(key_states), self._empty(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self._place
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            if place.index is None or place.ends is None:
                held[place.first : place.last, :, place.past : place.seen] = new
            else:
                held[place.index.to(new.device), :, place.ends.to(new.device)] = new[:, :, 0]
        rows = slice(place.first, place.last)
        return self.keys[rows, :, : place.seen], self.values[rows, :, : place.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._place.seen, 0

    def get_seq_length(self) -> int:
        return self._place.past

    def get_max_length(self) -> int:
        return -1

    def grow(self, rows: int, seen: int) -> None:
        """Take the place's size, keeping what stands in the first rows and columns."""
        if self.is_initialized:
            for name in ("keys", "values"):
                old = getattr(self, name)
                new = self._empty(old)
                new[:rows, :, :seen] = old[:rows, :, :seen]
                setattr(self, name, new)

    def move(self, sources: Tensor, targets: Tensor, used: int) -> None:
        for held in (self.keys, self.values):
            held[targets.to(held.device), :, :used] = held[sources.to(held.device), :, :used]

    def begin(self, prefix: tuple[Tensor, Tensor] | None, column: Tensor, rows: slice, used: int) -> None:
        """Put the prefix's columns in front of rows, and clear what earlier rows left behind their place.

        What is masked counts nothing, but 0 x NaN and NaN - inf are NaN: what another row left must not
        reach this one.
        """
        if prefix is not None:
            if not self.is_initialized:
                self.lazy_initialization(*prefix)
            for held, known in zip((self.keys, self.values), prefix, strict=True):
                taken = known[0][:, column.to(known.device)]
                held[rows, :, : column.shape[1]] = taken.transpose(0, 1)
        if self.is_initialized:
            for held in (self.keys, self.values):
                held[rows, :, column.shape[1] : used] = 0

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._place.rows, like.shape[1], self._place.columns, like.shape[3])


class Slots(Cache):
    """The cache of a running batch. `prefill` or `step` says where the next forward writes."""

    def __init__(self, layers: int) -> None:
        self._place = _Place()
        self._own = [_Layer(self._place) for _ in range(layers)]
        super().__init__(layers=list(self._own))

    def prefill(
        self,
        rows: slice,
        starts: Tensor,
        past: int,
        new: int,
        prefix: Sequence[tuple[Tensor, Tensor]] | None,
    ) -> None:
        """Make room for rows whose next `new` tokens go behind `past` columns.

        starts   [rows] the column of each row's first token
        prefix   each layer's keys and values [1, heads, P, width]; a row's columns starts..past are filled
                 with its beginning
        """
        place = self._place
        self._reserve(rows, past + new)
        column = (torch.arange(past, device=starts.device) - starts[:, None]).clamp_(min=0)
        for number, layer in enumerate(self._own):
            layer.begin(prefix[number] if prefix and past else None, column, rows, place.used)
        place.first, place.last, place.past, place.seen = rows.start, rows.stop, past, past + new
        place.index = place.ends = None

    def step(self, ends: Tensor, seen: int) -> None:
        """Let the next forward write one token a row, row r's at column ends[r] < seen.

        ends   [rows]
        """
        place = self._place
        self._reserve(slice(len(ends), len(ends)), seen)
        place.first, place.last, place.past, place.seen = 0, len(ends), seen - 1, seen
        place.ends = ends
        if place.index is None or len(place.index) != len(ends):
            place.index = torch.arange(len(ends), device=ends.device)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows `sources` over rows `targets`, all columns: what stood there may be NaN."""
        pairs = torch.tensor([list(sources), list(targets)])
        for layer in self._own:
            layer.move(pairs[0], pairs[1], self._place.used)

    def _reserve(self, rows: slice, columns: int) -> None:
        place = self._place
        if rows.stop <= place.rows and columns <= place.columns:
            place.used = max(place.used, columns)
            return
        held = place.columns
        if rows.stop > place.rows:
            place.rows = max(rows.stop, place.rows + place.rows // 2)
        if columns > held:
            place.columns = max(columns + _FIRST_COLUMNS, held + held // 2)
        for layer in self._own:
            layer.grow(rows.start, place.used)
        place.used = max(place.used, columns)


def can_hold(model: Any) -> int:
    """Return how many layers' slots a model's cache needs; 0 where it keeps anything but plain ones."""
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return 0
    layers = DynamicCache(config=model.config).layers
    return len(layers) if all(type(layer) is DynamicLayer for layer in layers) else 0
