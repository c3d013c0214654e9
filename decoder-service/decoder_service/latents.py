"""The latent block and where it stands: truncation, splicing, and the places that are supervised.

Pure torch, usable in process; knows no tokenizer, no engine and no wire. The block is
[bop, z_1 .. z_K, eop]; it stands right after the first user turn and counts like K + 2 tokens: it has
mask 1, its own positions, and no label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The label of a token that is not supervised, as everywhere in transformers.
IGNORED = -100


class Packed(NamedTuple):
    """One conversation in tokens.

    token_ids    all of its tokens, without the block
    supervised   for each token, whether it is one the model must predict
    at           tokens before the block, at least 1
    cut          tokens already cut away at the end
    """

    token_ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    at: int
    cut: int = 0


class Spliced(NamedTuple):
    """A padded batch: embeddings [R, L, D]; mask, labels and positions [R, L]."""

    embeddings: Tensor
    mask: Tensor
    labels: Tensor
    positions: Tensor


class Places(NamedTuple):
    """The M supervised tokens of a batch, row by row, each with the position that predicts it.

    rows, positions, targets   [M] int64: labels[rows, positions + 1] == targets
    in_window                  [M] bool: among the row's first `window` supervised tokens after the block
    """

    rows: Tensor
    positions: Tensor
    targets: Tensor
    in_window: Tensor


def shortened(packed: Packed, room: int) -> Packed:
    """Cut a conversation at its end so that it has at most `room` tokens; the block's place moves along.

    room   tokens that are left once the block's K + 2 are counted, at least 1
    """
    if room < 1:
        raise ValueError(f"room={room}: at least one token must stand before the block")
    kept = packed.token_ids[:room]
    cut = len(packed.token_ids) - len(kept)
    return Packed(kept, packed.supervised[:room], max(1, min(packed.at, len(kept))), packed.cut + cut)


def blocks_of(latents: Tensor, bop: Tensor, eop: Tensor) -> Tensor:
    """Put the marks around latent messages: [R, K, D], [D], [D] -> [R, K + 2, D]."""
    rows, _, width = latents.shape
    return torch.cat([bop.expand(rows, 1, width), latents, eop.expand(rows, 1, width)], dim=1)


def splice(
    embed: Callable[[Tensor], Tensor],
    batch: Sequence[Packed],
    blocks: Tensor | None,
    *,
    device: torch.device,
    left: bool = False,
) -> Spliced:
    """Embed conversations with each one's block in its place, padded to the longest.

    embed    token ids [R, T] -> embeddings [R, T, D]
    blocks   [R, K + 2, D] in the embeddings' type; None: no block
    left     pad on the left, for generation; else on the right
    returns  positions count from 0 at each row's first token; padding is zero vectors, mask 0, IGNORED
    source   Interlat, prepare of the insertion; seeds of the latent channel
    """
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.token_ids) for row in batch], batch_first=True)
    tokens = embed(ids.to(device))
    extra = 0 if blocks is None else blocks.shape[1]
    longest = max(len(row.token_ids) for row in batch) + extra
    embeddings, labels = [], torch.full((len(batch), longest), IGNORED)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for number, row in enumerate(batch):
        length = len(row.token_ids) + extra
        padding = tokens.new_zeros(longest - length, tokens.shape[-1])
        middle = [] if blocks is None else [blocks[number]]
        own = [tokens[number, : row.at], *middle, tokens[number, row.at : len(row.token_ids)]]
        embeddings.append(torch.cat([padding, *own] if left else [*own, padding]))
        start = longest - length if left else 0
        mask[number, start : start + length] = 1
        for at, (token, wanted) in enumerate(zip(row.token_ids, row.supervised, strict=True)):
            if wanted:
                labels[number, start + at + (extra if at >= row.at else 0)] = token
    positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)
    return Spliced(torch.stack(embeddings), mask.to(device), labels.to(device), positions.to(device))


def places_of(batch: Sequence[Packed], inserted: int, window: int, device: torch.device) -> Places:
    """Find the supervised tokens and what predicts them; the same tokens whatever was inserted.

    inserted   length of the block, 0 without one. The first token after the block is predicted by the
               block's last vector, and without a block by the token before it
    window     supervised tokens after the block, per row, that are marked
    """
    found: list[tuple[int, int, int, bool]] = []
    for number, row in enumerate(batch):
        after = 0
        for at, (token, wanted) in enumerate(zip(row.token_ids, row.supervised, strict=True)):
            # Nothing predicts the first token of all.
            if wanted and at > 0:
                found.append((number, at - 1 + (inserted if at >= row.at else 0), token, at >= row.at))
                after += at >= row.at
                if at >= row.at and after > window:
                    found[-1] = (*found[-1][:3], False)
    columns = [torch.tensor(column, device=device) for column in zip(*found, strict=True)]
    return Places(columns[0], columns[1], columns[2], columns[3])


def predictions(model: Any, batch: Spliced, places: Places) -> Tensor:
    """Run the model and return the logits of the supervised tokens, [M, V], in its own type.

    Only positions that some row predicts from pass the head: at a vocabulary of 150,000 the logits of
    all positions would be most of the memory.
    """
    wanted = torch.unique(places.positions, sorted=True)
    logits = model(
        inputs_embeds=batch.embeddings,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=wanted,
    ).logits
    chosen: Tensor = logits[places.rows, torch.searchsorted(wanted, places.positions)]
    return chosen


def last_states(model: Any, batch: Spliced) -> Tensor:
    """Run the model without its head: the last layer's states after the final norm, [R, L, D]."""
    states: Tensor = model.base_model(
        inputs_embeds=batch.embeddings,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    return states
