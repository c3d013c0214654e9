"""Start and end sooner: modules that bring torch with them are a million objects, and none is garbage.

While they are imported, Python looks through all of them again and again for cycles, and once more when the
process ends: a sixth of a start each.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from types import ModuleType


def load(module: str) -> ModuleType:
    """Import a module while the collector rests, and keep it from looking at what is there now ever again.

    For the start of a process: what exists when this returns is kept until the end, as modules are. A
    collector that was at work goes on afterwards. For imports alone: what is built meanwhile may hold memory
    that only a collection gives back.
    """
    if module in sys.modules:
        return import_module(module)
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.freeze()
        if collects:
            gc.enable()
