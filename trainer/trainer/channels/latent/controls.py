"""What else could have been sent: the controls beside a student's latents. Pure torch; knows no teacher.

A student that communicates must beat every one of them. Noise has the size of the student's own vectors, as
the teacher reacts to size alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mismatched(references: Sequence[str]) -> list[int]:
    """Return for each row another row whose reference differs: the message it is sent instead of its own.

    raises  ValueError if some row has no other
    """
    count, found = len(references), list[int]()
    for row in range(count):
        # Far away first: neighbours may share their composition.
        places = [(row + count // 2 + step) % count for step in range(count)]
        other = next((place for place in places if references[place] != references[row]), None)
        if other is None:
            raise ValueError("all references are equal: there is no mismatched message")
        found.append(other)
    return found


def white_noise(latents: Tensor, seed: int) -> Tensor:
    """Return noise in which every vector has the norm of the vector in its place, [N, K, D]."""
    drawn = _drawn(latents.shape, seed)
    return drawn / drawn.norm(dim=-1, keepdim=True) * latents.norm(dim=-1, keepdim=True)


def covariance_noise(latents: Tensor, seed: int, *, mean: bool) -> Tensor:
    """Return Gaussian noise with the covariance of the latents' vectors, and with their mean or none."""
    vectors = latents.flatten(0, 1).double()
    centre = vectors.mean(dim=0)
    values, basis = torch.linalg.eigh(torch.cov(vectors.T, correction=0))
    drawn = _drawn(latents.shape, seed).double() * values.clamp_min(0).sqrt() @ basis.T
    return (drawn + (centre if mean else 0)).to(latents.dtype)


def rotated(latents: Tensor, seed: int) -> Tensor:
    """Return the latents turned by one random rotation: every angle and norm among them is kept."""
    width = latents.shape[-1]
    turn, upper = torch.linalg.qr(_drawn((width, width), seed).double())
    # Haar measure: without the signs QR prefers some rotations.
    turn = turn * upper.diagonal().sign()
    return (latents.double() @ turn.T).to(latents.dtype)


def tiled(rows: Sequence[Tensor], vectors: int) -> Tensor:
    """Return [N, K, D]: of each row [L, D] the first K, a shorter one repeated, as stored states are."""
    return torch.stack([row[torch.arange(vectors) % len(row)] for row in rows])


def _drawn(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
