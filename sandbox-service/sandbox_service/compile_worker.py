"""The process that compiles what waits for a lane. It executes nothing, and knows no test's expected value.

Started by `ahead` on the jail's own interpreter, so that the code fits it, as `python -s -S` with a hash seed
and nothing else in its environment. Compiling has a CPU limit that the kernel enforces (SIGPROF kills), the
process an address-space limit, and, on Linux, a system-call filter under which it can compute and answer and
nothing else. What it cannot compile, or the compiler warns of, is left to the run's own process to say.
Standard library only, and what of this room is standard library only.

Not covered: it reads one program after the other. A text that took over the compiler, by a fault of the
interpreter, could change the code of programs after it; it could neither see nor say what a test expects.
"""

from __future__ import annotations

import functools
import marshal
import signal
import struct
import sys
import warnings
from types import CodeType
from typing import NoReturn

from sandbox_service.inside import compiling
from sandbox_service.judge_worker import lock

# number of the request, length of what follows: by `marshal` a `Wanted`, back a `compiling.Codes` or nothing
HEADER = struct.Struct("!QI")
_KEPT = 2000  # characters of a call whose code is kept for the next program of its task


def main(cpu_s: float, parent: int) -> NoReturn:
    """Serve the pipe until it ends. `cpu_s` is the CPU time one run's texts may take."""
    warnings.simplefilter("error")
    lock(parent)
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while True:
        header = requests.read(HEADER.size)
        if len(header) < HEADER.size:
            sys.exit(0)
        number, length = HEADER.unpack(header)
        body = requests.read(length)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        made = compiled(body)
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(HEADER.pack(number, len(made)) + made)
        replies.flush()


def compiled(body: bytes) -> bytes:
    """Return the code of a run's texts, by `marshal`; empty where the run itself is to compile them."""
    setup, program, calls, beside, result = marshal.loads(body)
    try:
        texts = compiling.texts(calls, beside, result)
        after = tuple(_text(index, text, mode) for index, (text, mode) in enumerate(texts))
        return marshal.dumps((_setup(setup), _crossing(compiling.program_code(program)), after))
    except Exception:  # noqa: BLE001 - hostile text, and warnings
        return b""


@functools.lru_cache(maxsize=16)
def _setup(text: str) -> CodeType | None:
    made = compiling.setup_code(text)
    return made and _crossing(made)


def _text(index: int, text: str, mode: str) -> CodeType:
    return (_short_text if len(text) <= _KEPT else _any_text)(index, text, mode)


def _any_text(index: int, text: str, mode: str) -> CodeType:
    return _crossing(compiling.text_code(index, text, mode))


_short_text = functools.lru_cache(maxsize=4096)(_any_text)


def _crossing(code: CodeType) -> CodeType:
    """Return code that is the same when it has crossed; raises ValueError for other code."""
    if not _crosses(code):
        raise ValueError("a set among its constants comes out in another order")
    return code


def _crosses(value: object) -> bool:
    if isinstance(value, frozenset):
        return list(marshal.loads(marshal.dumps(value))) == list(value)
    within = value.co_consts if isinstance(value, CodeType) else value if isinstance(value, tuple) else ()
    return all(map(_crosses, within))
