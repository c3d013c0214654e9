"""Start and end sooner: modules that bring torch with them are a million objects, and none is garbage.

While they are imported, Python looks through all of them again and again for cycles, a sixth of a start; and
when the process ends it takes them apart one by one, which is longer than many a command works.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import NoReturn


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


def run(main: Callable[[], int | None]) -> NoReturn:
    """Do what a process is there for, and end it with the exit code that `main` returns or asks for.

    At the end as `multiprocessing` ends its processes: threads that are no daemons end, what is registered
    with `atexit` is called, both streams are flushed; what is left is the kernel's to clear up. Output that
    cannot be written makes of exit code 0 a 1, and is told on stderr unless its reader went away. An
    exception goes its ordinary way.
    """
    try:
        asked = main()
        sys.exit(asked)  # who logs a run may have put something of its own there meanwhile, to learn the code
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(_flushed(code))


def _flushed(code: int) -> int:
    """Write what the streams still hold; return the exit code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BrokenPipeError:
            code = code or 1
        except (OSError, ValueError) as error:
            code = code or 1
            if name == "stdout" and sys.stderr is not None:
                print(f"the output could not be written: {error}", file=sys.stderr)
    return code
