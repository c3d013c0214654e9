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
from collections.abc import Iterator
from types import CodeType
from typing import NoReturn

from sandbox_service.inside import compiling
from sandbox_service.judge_worker import lock

# number of the request, and length of what follows, both ways by `marshal`: setup, program, calls and result;
# back a `compiling.Codes`, or nothing
HEADER = struct.Struct("!QI")
_KEPT = 2000  # characters of a call whose code is kept for the next program of its task
# Nesting, and digits of an integer, from which on a run's own depth and settings decide whether it compiles.
_DEPTH, _DIGITS = 500, 640
_NUMBERS = {int, float, complex, bool}


def main(cpu_s: float, parent: int) -> NoReturn:
    """Serve the pipe until it ends. `cpu_s` is the CPU time one run's texts may take."""
    be_strict()
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


def be_strict() -> None:
    """Refuse whatever the compiler warns of, and what a run might refuse that has less room or a setting."""
    warnings.simplefilter("error")
    sys.setrecursionlimit(_DEPTH)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(_DIGITS)


def longest(asked: int) -> int:
    """Return how long the code of a request of so many bytes may be. Nested `finally` doubles it at each
    level, and the service keeps all there is until its run begins."""
    return min(4 << 20, (16 << 10) + 16 * asked)


def compiled(body: bytes) -> bytes:
    """Return the code of a run's texts, by `marshal`; empty where the run itself is to compile them."""
    setup, program, calls, result = marshal.loads(body)
    try:
        texts = compiling.texts(calls, (), result)
        after = tuple(_text(index, text, mode) for index, (text, mode) in enumerate(texts))
        codes = _setup(setup), compiling.program_code(program), after
        made = marshal.dumps(codes)
        return made if len(made) <= longest(len(body)) and crosses(codes, made) else b""
    except Exception:  # noqa: BLE001 - hostile text, and warnings
        return b""


_setup = functools.lru_cache(maxsize=16)(compiling.setup_code)


def _text(index: int, text: str, mode: str) -> CodeType:
    return (_short_text if len(text) <= _KEPT else compiling.text_code)(index, text, mode)


_short_text = functools.lru_cache(maxsize=4096)(compiling.text_code)


def crosses(codes: object, made: bytes) -> bool:
    """Whether code is the same when it has crossed as `made`, and as if the run had compiled it.

    A set may come out in another order; and one with a string is built anew, perhaps in another order, by a
    process that had the string before. A byte by itself is one object everywhere, until it has crossed.
    """
    odd = list(_odd(codes))
    if any(isinstance(one, bytes) or not _NUMBERS.issuperset(map(type, one)) for one in odd):
        return False
    return not odd or list(map(repr, odd)) == list(map(repr, _odd(marshal.loads(made))))


def _odd(value: object) -> Iterator[bytes | frozenset[object]]:
    """Yield the sets among the constants of code that have an order, and each byte by itself."""
    if (isinstance(value, bytes) and len(value) == 1) or (isinstance(value, frozenset) and len(value) > 1):
        yield value
    within = value.co_consts if isinstance(value, CodeType) else value
    if isinstance(within, (tuple, frozenset)):
        for one in within:
            yield from _odd(one)
