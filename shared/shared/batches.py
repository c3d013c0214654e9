"""How a client cuts its items into requests. Knows nothing of HTTP, programs or verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from shared.wire import MAX_BATCH

Q = TypeVar("Q")

# A request stays far below a service's body limit (64 MB by default), whatever its texts are made of.
MAX_REQUEST_CHARACTERS = 8_000_000
# Fewer items than this per instance are not worth a second request.
MIN_SHARE = 16


def split(items: Sequence[Q], size: Callable[[Q], int], instances: int) -> list[list[Q]]:
    """Cut items [N] into consecutive parts: at most MAX_BATCH items and MAX_REQUEST_CHARACTERS each (an item
    larger than that stands alone), and one part per instance when each gets at least MIN_SHARE items."""
    shares = max(1, min(instances, len(items) // MIN_SHARE))
    most = min(MAX_BATCH, -(-len(items) // shares)) if items else MAX_BATCH
    parts: list[list[Q]] = []
    room = 0
    for item in items:
        length = size(item)
        if not parts or len(parts[-1]) >= most or length > room:
            parts.append([])
            room = MAX_REQUEST_CHARACTERS
        parts[-1].append(item)
        room -= length
    return parts
