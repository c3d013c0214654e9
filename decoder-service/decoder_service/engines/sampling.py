"""Chance that belongs to a row: what is drawn depends on (seed, message, step), never on the neighbours.

One uniform number per row and step is enough (inverse of the cumulative distribution), so the numbers of
a whole program are drawn before the first step, by Python's generator: the same on every device.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from decoder_service.engines.engine import Decoding, Row

# float32 sums end a little beside 1; a target just below the end cannot fall behind the last token.
_BELOW_ONE = 1.0 - 1e-6


def greedy(logits: Tensor) -> Tensor:
    """Return the likeliest token of each row: [R, V] -> [R]."""
    return logits.argmax(dim=-1)


def uniforms(rows: Sequence[Row], decoding: Decoding) -> Tensor:
    """Return one number in [0, 1) per row and step, [R, max_new_tokens] float32 on the CPU."""
    numbers = []
    for row in rows:
        digest = hashlib.sha256(f"{row.seed}\0{row.message}".encode("utf-8", "surrogatepass")).digest()
        source = random.Random(digest)
        numbers.append([source.random() for _ in range(decoding.max_new_tokens)])
    return torch.tensor(numbers, dtype=torch.float32)


def sampled(logits: Tensor, uniform: Tensor, decoding: Decoding) -> Tensor:
    """Draw one token per row from softmax(logits / temperature) within its nucleus.

    logits   [R, V], any float type
    uniform  [R] in [0, 1), the rows' numbers for this step
    returns  [R] tokens; the nucleus is the smallest set of likeliest tokens that holds top_p
    """
    probabilities = torch.softmax(logits.float() / decoding.temperature, dim=-1)
    target = uniform[:, None] * _BELOW_ONE
    if decoding.top_p >= 1.0:
        return _inverse(probabilities.cumsum(dim=-1), target).squeeze(-1)
    # Stable, so that equal probabilities keep their order in any batch.
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    summed = ordered.cumsum(dim=-1)
    ordered = ordered.masked_fill(summed - ordered >= decoding.top_p, 0.0)
    return tokens.gather(-1, _inverse(ordered.cumsum(dim=-1), target)).squeeze(-1)


def _inverse(summed: Tensor, target: Tensor) -> Tensor:
    """Return the first place of each row whose sum exceeds target times the whole, [R, 1].

    Places of probability 0 are never chosen: their sum does not exceed that of the place before.
    """
    index = torch.searchsorted(summed, target * summed[:, -1:], right=True)
    return index.clamp_(max=summed.shape[-1] - 1)
