"""What a program is known by: its message, how it was decoded, and the seed where chance played a part."""

from __future__ import annotations

from typing import NamedTuple

from decoder_service.engines.engine import Decoding


class Key(NamedTuple):
    """All that a program depends on while the process lives; `seed` is 0 where decoding is greedy."""

    message: str
    decoding: Decoding
    seed: int


def key_for(message: str, decoding: Decoding, seed: int) -> Key:
    """Return the key of one message; greedy decodings share one, whatever their top_p and seed."""
    if decoding.temperature == 0:
        return Key(message, Decoding(decoding.max_new_tokens), 0)
    return Key(message, decoding, seed)
