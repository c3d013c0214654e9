"""Chance that belongs to a row: what is drawn depends on (seed, message, step), never on the neighbours.

Gumbel noise on the logits, then the largest. The noise is a hash of (row, step, token), computed for the
whole batch at once and the same on every device. Where another batch rounds the logits differently, a draw
changes only if its two best candidates are that close; drawing by a cumulated distribution was tried and
changed far more often, since there every token's rounding moves every boundary behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.generation import Choose

# splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
_STEP, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def greedy(logits: Tensor) -> Tensor:
    """Return the likeliest token of each row: [R, V] -> [R]."""
    return logits.argmax(dim=-1)


def chooser(rows: Sequence[Row], decoding: Decoding, device: torch.device) -> Choose:
    """Return how the rows of a batch choose their tokens: the likeliest, or each by its own chance."""
    if decoding.temperature == 0:
        return lambda logits, alive, step: greedy(logits)
    keys = row_keys(rows).to(device)
    return lambda logits, alive, step: sampled(logits, keys[alive], step, decoding)


def drawn(logits: Tensor, keys: Tensor, steps: Sequence[int], decodings: Sequence[Decoding]) -> Tensor:
    """Choose each row's token by its own decoding.

    logits     [R, V]
    keys       [R] int64, the rows' own
    steps      [R] how many tokens each row has already
    decodings  [R]
    returns    [R] tokens
    """
    places: dict[tuple[float, float], list[int]] = {}
    for place, decoding in enumerate(decodings):
        places.setdefault((decoding.temperature, decoding.top_p), []).append(place)
    tokens = greedy(logits)
    for (temperature, _), own in places.items():
        if temperature > 0:
            at = torch.tensor(own, device=logits.device)
            step = torch.tensor([[steps[place]] for place in own], device=logits.device)
            tokens[at] = sampled(logits[at], keys[at], step, decodings[own[0]])
    return tokens


def row_keys(rows: Sequence[Row]) -> Tensor:
    """Return one 64-bit number per row, [R] int64, from its seed and message."""
    digests = (
        hashlib.sha256(f"{row.seed}\0{row.message}".encode("utf-8", "surrogatepass")).digest() for row in rows
    )
    return torch.tensor([int.from_bytes(digest[:8], "little", signed=True) for digest in digests])


def gumbel(keys: Tensor, step: int | Tensor, vocabulary: int) -> Tensor:
    """Return one step's noise, [R, V] float32: independent Gumbel(0, 1), a function of (key, step, token).

    keys   [R] int64
    step   of all rows, or [R, 1] int64, each row's
    """
    places = torch.arange(vocabulary, device=keys.device) + (step << 32)
    mixed = keys[:, None] + places * _signed(_STEP)
    mixed = _xor_shifted(mixed, 30).mul_(_signed(_MIX_1))
    mixed = _xor_shifted(mixed, 27).mul_(_signed(_MIX_2))
    # 23 bits and a half: neither 0 nor 1 in float32. The last xor of splitmix64 only touches lower ones.
    uniform = mixed.bitwise_right_shift_(41).bitwise_and_((1 << 23) - 1).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def sampled(logits: Tensor, keys: Tensor, step: int | Tensor, decoding: Decoding) -> Tensor:
    """Draw one token per row from softmax(logits / temperature) within its nucleus.

    logits   [R, V], any float type
    keys     [R] int64, the rows' own
    step     of all rows, or [R, 1] int64, each row's
    returns  [R] tokens; the nucleus is the smallest set of likeliest tokens that holds top_p
    """
    scores = logits.float() / decoding.temperature
    if decoding.top_p < 1.0:
        ordered = scores.sort(dim=-1, descending=True).values
        shares = ordered.softmax(dim=-1)
        kept = (shares.cumsum(dim=-1) - shares < decoding.top_p).sum(dim=-1, keepdim=True).clamp_(min=1)
        scores = scores.masked_fill(scores < ordered.gather(-1, kept - 1), -torch.inf)
    return scores.add_(gumbel(keys, step, scores.shape[-1])).argmax(dim=-1)


def _signed(number: int) -> int:
    """Return a 64-bit number as int64 holds it."""
    return number - (1 << 64) if number >> 63 else number


def _xor_shifted(number: Tensor, bits: int) -> Tensor:
    """Return number ^ (number >>> bits): int64 shifts copy the sign, which is cleared here."""
    return (number >> bits).bitwise_and_((1 << (64 - bits)) - 1).bitwise_xor_(number)
