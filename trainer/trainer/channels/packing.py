"""The log-probabilities of many completions of the same prompts: what is the same in them is computed once.

A row is a prompt and the tree of its completions: a beginning that several of them have is there once. Each
token sees what it goes on from: a mask of [N, N] says so, and its position is the one it would have in a row
of its own. The figures are those of one row for each completion; what is saved is the prompt, which is most
of a short completion's row, and more as a policy settles, whose completions begin alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch

# What takes a mask of any form.
IMPLEMENTATIONS = ("sdpa", "eager")
NO_LABEL = -100


class Packed(NamedTuple):
    """Prompts with their completions.

    ids, positions, targets  [G, N]; a target is the token that comes next, or NO_LABEL
    mask                     [G, 1, N, N], 0 where row i may look at column j, else the least number there is
    places                   of each scored token (row, column) in the batch [B, T], and (row, column) here
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    places: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def pack(ids: torch.Tensor, shown: torch.Tensor, keep: int, dtype: torch.dtype) -> Packed:
    """Put the completions of one prompt, where they lie side by side, into one row.

    ids    [B, P + T] prompts and completions
    shown  [B, P + T], 1 for what is no padding; a completion of which nothing is shown is left out
    keep   T
    dtype  of the mask: the model's
    """
    width = ids.shape[1] - keep
    rows = [
        (
            tuple(ids[b, :width][shown[b, :width].bool()].tolist()),
            b,
            shown[b, width:].nonzero()[:, 0].tolist(),
        )
        for b in range(len(ids))
    ]
    # Something always is computed: a step on several ranks has a backward pass on each.
    played = [row for row in rows if row[2]] or [(*rows[0][:2], [0])]
    lines: list[_Line] = []
    places: list[tuple[int, int, int, int]] = []
    for group, (prompt, members) in enumerate(groupby(played, key=lambda row: row[0])):
        line = _Line(prompt)
        for _, b, columns in members:
            found = line.add([int(ids[b, width + t]) for t in columns])
            places += [(b, t, group, column) for t, column in zip(columns, found, strict=True)]
        lines.append(line)
    longest, device = max(len(line.tokens) for line in lines), ids.device

    def filled(values: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([own + [value] * (longest - len(own)) for own in values], device=device)

    sees = torch.zeros(len(lines), longest, longest, dtype=torch.bool)
    for group, line in enumerate(lines):
        sees[group, : len(line.tokens), : len(line.tokens)] = torch.from_numpy(line.sees())
    mask = torch.zeros(sees.shape, dtype=dtype, device=device)
    mask.masked_fill_(~sees.to(device), torch.finfo(dtype).min)
    where = torch.tensor(places, device=device).T
    return Packed(
        filled([line.tokens for line in lines], 0), filled([line.positions for line in lines], 0),
        filled([line.targets for line in lines], NO_LABEL), mask[:, None],
        (where[0], where[1], where[2], where[3]),
    )  # fmt: skip


class _Line:
    """A prompt and its completions as they are packed: each column is a token, and what comes next there.

    before  [N] the column that each one goes on from; -1 for the first
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.last, self.shared = prompt[-1], len(prompt) - 1
        self.tokens, self.positions = list(prompt[:-1]), list(range(self.shared))
        self.targets = [NO_LABEL] * self.shared
        self.before = list(range(-1, self.shared - 1))
        self._known: dict[tuple[int, int], int] = {}

    def add(self, completion: Sequence[int]) -> list[int]:
        """Return the column [T] of each token of a completion, new or there already."""
        at, columns = self.shared - 1, []
        for t, (token, target) in enumerate(zip([self.last, *completion], completion, strict=False)):
            column = self._known.get((at, target))
            if column is None:
                column = self._known[at, target] = len(self.tokens)
                self.tokens.append(token)
                self.positions.append(self.shared + t)
                self.targets.append(target)
                self.before.append(at)
            at = column
            columns.append(column)
        return columns

    def sees(self) -> Any:
        """Return [N, N], true where row i may look at column j: itself and what it goes on from."""
        found = np.eye(len(self.tokens), dtype=bool)
        for row, before in enumerate(self.before):
            if before >= 0:
                found[row] |= found[before]
        return found


def log_probabilities(
    model: Any, ids: torch.Tensor, shown: torch.Tensor, keep: int, *, dtype: torch.dtype, entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return each completion token's log-probability, and its distribution's entropy, both [B, T]; 0 where
    nothing is shown.

    model    with TRL's fused head: `shift_labels` in, `log_probs` and `entropy` out
    """
    packed = pack(ids, shown, keep, dtype)
    found = model(
        input_ids=packed.ids, attention_mask=packed.mask, position_ids=packed.positions,
        shift_labels=packed.targets, fused_lm_head=True,
    )  # fmt: skip
    b, t, group, column = packed.places

    def unpacked(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(len(ids), keep).index_put((b, t), values[group, column])

    return unpacked(found.log_probs), unpacked(found.entropy) if entropy else None


def distinct(ids: torch.Tensor, shown: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows that differ, of both [B, N], and for each row given the place [B] of its like."""
    rows, back = torch.unique(torch.stack((ids, shown), 1), dim=0, return_inverse=True)
    return rows[:, 0], rows[:, 1], back


def distinct_log_probabilities(
    model: Any, ids: torch.Tensor, shown: torch.Tensor, keep: int, *, dtype: torch.dtype, entropy: bool,
    passes: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return what `log_probabilities` does, each distinct row computed once.

    passes  at most so many, each of prompts whose completions are about as long together: less is padding
    """
    ids, shown, back = distinct(ids, shown)
    width = ids.shape[1] - keep
    *_, prompt = distinct(ids[:, :width], shown[:, :width])
    tokens = shown[:, width:].sum(1)
    order = torch.argsort(tokens.new_zeros(int(prompt.max()) + 1).index_add(0, prompt, tokens), stable=True)
    places = [
        torch.isin(prompt, some).nonzero()[:, 0] for some in order.tensor_split(min(passes, len(order)))
    ]
    found = [
        log_probabilities(model, ids[rows], shown[rows], keep, dtype=dtype, entropy=entropy)
        for rows in places
    ]
    back = torch.argsort(torch.cat(places))[back]
    logps, entropies = zip(*found, strict=True)
    return torch.cat(logps)[back], torch.cat(entropies)[back] if entropy else None
