"""Start sooner: modules that bring torch with them are a million objects, and none of them is garbage.

While they are imported, Python looks through all of them again and again for cycles: a sixth of a start.
"""

from __future__ import annotations

import gc
from importlib import import_module
from types import ModuleType


def load(module: str) -> ModuleType:
    """Import a module while the collector rests; one that was at work goes on afterwards.

    For imports alone: what is built meanwhile may hold memory that only a collection gives back.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        if collects:
            gc.enable()
