"""The process that evaluates what tests assert, with the candidate's values, and never its code.

Started by `judge_link` as `python -s -S -P` with a hash seed and nothing else in its environment. Each
evaluation has a CPU limit that the kernel enforces (SIGPROF kills, whatever Python is busy with), the process
an address-space limit, and, on Linux, a system-call filter under which it can compute and answer but not
open, connect, fork or signal.
Standard library only, and what of this room is standard library only.

Not covered: the text of the tests is the client's. It is restricted by `split` and by the filter, but this
process is a limited one, not a jail of its own: a client is trusted to hold the service's token.
"""

from __future__ import annotations

import ast
import errno
import functools
import json
import platform
import re
import reprlib
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn

from sandbox_service.decode import CodecError, decode
from sandbox_service.inside import harden
from sandbox_service.known import namespace

HEADER = struct.Struct("!I")
MEMORY_BYTES = 256 << 20
MESSAGE_MAX = 200
_SHOWN = 80
_KEPT = 2000  # characters of a remainder whose code is kept for the next program of its task

# read write mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn sched_yield mremap madvise
# setitimer exit futex clock_gettime exit_group getrandom
_ALLOWED = {
    "x86_64": (0xC000003E, (0, 1, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 38, 60, 202, 228, 231, 318)),
    "aarch64": (
        0xC00000B7,
        (63, 64, 93, 94, 98, 103, 113, 124, 134, 135, 139, 214, 215, 216, 222, 226, 233, 278),
    ),
}


class Raised(Exception):
    """A call raised in the candidate's process; the message is what it said."""


class Missing(Exception):
    """A call was never answered."""


class Finding(NamedTuple):
    """What came of one test: passed, failed, raised, missing (an answer it needs is not there), or limit."""

    outcome: str
    message: str


class Holes:
    """`H` of one test: `H[i]` is the value of call i, decoded when first asked for, or raises in place."""

    def __init__(self, calls: list[str], answers: list[tuple[str, bytes]]) -> None:
        self.calls, self.answers = calls, answers
        self.values: dict[int, Any] = {}

    def __getitem__(self, index: int) -> Any:
        if index in self.values:
            return self.values[index]
        status, payload = self.answers[index]
        if status == "value":
            value = self.values[index] = decode(payload)
            return value
        if status == "missing":
            raise Missing(self.calls[index])
        raise Raised(f"{self.calls[index]}: {payload.decode('utf-8', 'replace')}")


def evaluate(remainder: str, calls: list[str], answers: list[tuple[str, bytes]]) -> Finding:
    """Evaluate one test's remainder over the answers to its calls."""
    holes = Holes(calls, answers)
    try:
        exec(_code(remainder), {**namespace(), "H": holes})
    except AssertionError as error:
        where = error.__traceback__.tb_next if error.__traceback__ else None
        return Finding("failed", _explain(remainder, where.tb_lineno if where else 1, holes))
    except Raised as error:
        return Finding("raised", str(error))
    except Missing as error:
        return Finding("missing", str(error))
    except CodecError as error:
        return Finding("failed", f"the program's answer cannot be read: {error}")
    except (MemoryError, RecursionError) as error:
        return Finding("limit", type(error).__name__)
    except Exception as error:  # noqa: BLE001 - whatever an expression over hostile values raises is its failure
        return Finding("failed", f"{_with_calls(remainder, calls)}: {type(error).__name__}: {error}")
    return Finding("passed", "")


def _code(remainder: str) -> CodeType:
    return _short_code(remainder) if len(remainder) <= _KEPT else compile(remainder, "<test>", "exec")


@functools.lru_cache(maxsize=4096)
def _short_code(remainder: str) -> CodeType:
    return compile(remainder, "<test>", "exec")


# --- messages ----------------------------------------------------------------------------------------

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxset = _short.maxfrozenset = _short.maxdict = _short.maxdeque = 20
_short.maxstring = _short.maxlong = _short.maxother = _SHOWN


def _show(value: object) -> str:
    try:
        text = _short.repr(value)
    except ValueError:  # an int of more digits than Python likes to print
        text = f"<{type(value).__name__} too long to print>"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class _Assertion(NamedTuple):
    """One `assert` of a remainder: what runs before it, and what to evaluate and show when it is false."""

    before: CodeType
    text: str
    shown: tuple[tuple[str, CodeType], ...]
    form: str


@functools.lru_cache(maxsize=16)
def _assertion(remainder: str, line: int) -> _Assertion:
    """Take the assertion at a line apart for its message."""
    body = ast.parse(remainder).body
    place = next(i for i, one in enumerate(body) if one.lineno <= line <= (one.end_lineno or line))
    statement = body[place]
    assert isinstance(statement, ast.Assert)
    test, form, parts = statement.test, "values", []
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right = test.left, test.comparators[0]
        form, parts = "sides", [left, right]
        if isinstance(test.ops[0], ast.Eq) and list(_holes(left)) and not list(_holes(right)):
            form = "expected"
        elif isinstance(test.ops[0], ast.Eq) and list(_holes(right)) and not list(_holes(left)):
            form, parts = "expected", [right, left]
    else:
        parts = list(_holes(test))
    shown = tuple((ast.unparse(part), compile(ast.Expression(part), "<side>", "eval")) for part in parts)
    before = compile(ast.Module(body[:place], []), "<test>", "exec")
    return _Assertion(before, ast.unparse(test), shown, form)


def _holes(expression: ast.expr) -> Iterator[ast.expr]:
    for part in ast.walk(expression):
        match part:
            case ast.Subscript(value=ast.Name(id="H")):
                yield part


def _explain(remainder: str, line: int, holes: Holes) -> str:
    """Say what was expected and what came. Up to the failed line all is evaluated again, on fresh values."""
    assertion = _assertion(remainder, line)
    text = f"{_with_calls(assertion.text, holes.calls)} is false"
    try:
        scope = {**namespace(), "H": Holes(holes.calls, holes.answers)}
        exec(assertion.before, scope)
        shown = [(_with_calls(part, holes.calls), _show(eval(code, scope))) for part, code in assertion.shown]
    except Exception as error:  # noqa: BLE001 - the verdict stands; only its wording is at stake
        return f"{text} ({type(error).__name__} while saying why)"
    if assertion.form == "expected":
        (name, got), (_, expected) = shown
        return f"{name}: expected {expected}, got {got}"
    if assertion.form == "sides":
        return f"{text}: {shown[0][1]} against {shown[1][1]}"
    return text + "".join(f"; {name} gave {got}" for name, got in shown)


def _with_calls(text: str, calls: list[str]) -> str:
    """Put the calls back where a remainder has its holes."""

    def call(hole: re.Match[str]) -> str:
        index = int(hole[1])
        return _cut(calls[index]) if index < len(calls) else hole[0]

    return re.sub(r"\bH\[(\d{1,4})\]", call, _cut(text, 2 * _SHOWN))


def _cut(text: str, longest: int = _SHOWN) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


# --- the process -------------------------------------------------------------------------------------


def main(cpu_s: float, parent: int) -> NoReturn:
    """Serve the pipe until it ends. `cpu_s` is the CPU time one test may take."""
    warnings.simplefilter("ignore")  # a test that is odd Python is the client's, and no line of our log
    lock(parent)
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = None  # where `re.compile(..., 128)` prints to
    replies.write(b"ready\n")
    replies.flush()
    while True:
        header = requests.read(HEADER.size)
        if len(header) < HEADER.size:
            sys.exit(0)
        _serve(requests.read(HEADER.unpack(header)[0]), replies, cpu_s)


def _serve(frame: bytes, replies: BinaryIO, cpu_s: float) -> None:
    """Answer one verdict's tests, one line each, written before the next one is begun."""
    head, _, body = frame.partition(b"\n")
    offset = 0
    for remainder, calls, sizes in json.loads(head):
        answers = []
        for status, size in sizes:
            answers.append((status, body[offset : offset + size]))
            offset += size
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        finding = evaluate(remainder, calls, answers)
        line = json.dumps([finding.outcome, printable(finding.message)])
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(line.encode("ascii") + b"\n")
        replies.flush()


def printable(text: str, longest: int = MESSAGE_MAX) -> str:
    """Cut a text short and escape what a terminal, a log or a reader could be fooled by."""
    cut = _cut(text, longest)
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in cut)


def lock(parent: int, more: Mapping[str, Sequence[int]] = MappingProxyType({})) -> None:
    """Give up everything but computing. The filter is best effort; the CPU and memory limits are not.

    more  system calls to allow besides, by machine
    """
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 8),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except ValueError:
            if harden.LINUX:
                raise
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches the whole group; the link ends us
    if harden.LINUX:
        harden.die_with_parent(parent)
        harden.not_dumpable()
        harden.no_new_privileges()
        program = _filter(more.get(platform.machine(), ()))
        if program:
            harden.filter_system_calls(program)


def _filter(more: Sequence[int]) -> bytes:
    """Return a seccomp program that allows the listed calls and answers EPERM to all others."""
    architecture, allowed = _ALLOWED.get(platform.machine(), (0, ()))
    allowed = (*allowed, *more)
    if not architecture:
        return b""
    load, jump, give = 0x20, 0x15, 0x06
    steps = [
        (load, 0, 0, 4),
        (jump, 1, 0, architecture),
        (give, 0, 0, 0x00050000 | errno.EPERM),
        (load, 0, 0, 0),
    ]
    for place, number in enumerate(allowed):
        steps.append((jump, len(allowed) - place, 0, number))
    steps += [(give, 0, 0, 0x00050000 | errno.EPERM), (give, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
