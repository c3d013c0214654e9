"""Start sooner: a process that loads its modules has nothing for the garbage collector to find.

torch, transformers and what they import are a million objects that live as long as the process. While they
are loaded, Python looks through all of them again whenever they have grown by a quarter: a tenth of a start.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable

_SETTLED_S = 3.0
_NEVER = 1_000_000  # collections of the middle generation


def collect_later(settled_s: float = _SETTLED_S, clock: Callable[[], float] = time.monotonic) -> None:
    """Leave out full collections until no module was loaded for `settled_s` seconds; the young go on.

    Called by what is a process of its own, first of all. Afterwards the thresholds are what they were.
    """
    kept, seen, since = gc.get_threshold(), 0, clock()

    def look(phase: str, info: dict[str, int]) -> None:
        nonlocal seen, since
        if phase != "stop" or info["generation"] != 1:
            return
        if len(sys.modules) != seen:
            seen, since = len(sys.modules), clock()
        elif clock() - since >= settled_s:
            gc.callbacks.remove(look)
            gc.set_threshold(*kept)

    gc.callbacks.append(look)
    gc.set_threshold(*kept[:2], _NEVER)
