"""Start and end sooner: modules that bring torch with them are a million objects, and none is garbage.

While they are imported, Python looks through all of them again and again for cycles, a sixth of a start; and
when the process ends it takes them apart one by one, which is longer than many a command works.
"""

from __future__ import annotations

import atexit
import contextlib
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
    with `atexit` is called, the streams are flushed; what is left is the kernel's to clear up. So a file that
    nobody closed loses what it still holds. Output that cannot be written makes of exit code 0 a 1, and is
    told on stderr unless its reader went away. An exception goes its ordinary way.
    """
    try:
        asked = main()
        sys.exit(asked)  # who logs a run may have put something of its own there meanwhile, to learn the code
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    code = _flushed(code)  # first: what follows may take its time, and end in a signal
    with contextlib.suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    code = _flushed(code)
    if "ctypes" in sys.modules:  # what code in C has printed by stdio
        sys.modules["ctypes"].CDLL(None).fflush(None)
    os._exit(code & 0xFF)


def _flushed(code: int) -> int:
    """Write what the streams still hold; return the exit code. A stream that failed is there no more."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except Exception as error:  # noqa: BLE001 - anything may stand in a stream's place
            code = code or 1
            setattr(sys, name, None)
            if not isinstance(error, BrokenPipeError) and sys.stderr is not None:
                with contextlib.suppress(Exception):
                    print(f"the output could not be written: {error}", file=sys.stderr)
    return code
