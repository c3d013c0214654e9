"""The one-shot child: takes one program, runs it, answers its calls, ends. Stdlib only.

It is forked before its request exists, so no other run's program or answers are in its memory. Whatever it
writes is the candidate's word: the candidate can change every object here, this module included.

A short run costs what its child writes to: each page of the zygote's memory that it touches is copied, and a
reference count is a write. So what can be done once by the zygote is not done here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what `signal` wraps, without its enums: they cost pages
import itertools
import marshal
import math
import os
import resource
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from sandbox_service.inside import codec, frames, harden, serve

# limits as they cross the child's own pipe: cpu_s, memory, file bytes, processes, answers a test, body length
HEADER = struct.Struct("!dQQI?I")
MESSAGE_MAX = 1000
NAME = "program"
OWN = "{uid}"  # in the path of `home`: each child has one of its own
_DESCRIPTORS = 128  # what `measure` limits the zygote to
_UNBLOCK, _SIGCHLD = int(signal.SIG_UNBLOCK), (int(signal.SIGCHLD),)


class Pipes(NamedTuple):
    """A child's descriptors: its request (read), its answers (write), what becomes fd 1 and fd 2 (write)."""

    request: int
    answers: int
    stdout: int
    stderr: int


class Confined(NamedTuple):
    """What a child becomes before it sees its request.

    uid      uid and gid to become; None keeps this one
    home     a directory to make and to work in; empty for where the zygote is
    parent   the zygote, to die with it; 0 where it is PID 1, and all dies with it anyway
    counted  processes of this uid that are not the candidate's, for RLIMIT_NPROC
    ruleset  descriptor of a Landlock ruleset to enter, or None
    lonely   one more seccomp program, for a child that shares its uid with others; empty for none
    """

    uid: int | None
    home: str
    parent: int
    counted: int
    ruleset: int | None
    lonely: bytes


class Work(NamedTuple):
    """What a child is asked: as it crosses, by `marshal`, from the service that is trusted to it that is not.

    setup    executed before the program
    calls    expressions to evaluate, in order; then the tests `beside`, executed; then `result`, if any
    """

    program: str
    setup: str
    calls: tuple[str, ...]
    beside: tuple[str, ...]
    result: str | None


def prepare(home: str) -> None:
    """Do once, in the zygote, what all children would do alike before they leave it."""
    os.umask(0o077)
    if OWN not in home:
        os.chdir(home)
    if harden.LINUX and os.geteuid() == 0:
        os.setgroups([])


def run(pipes: Pipes, confined: Confined) -> None:
    """Become the candidate's process and never return."""
    uid, home, parent, counted, ruleset, lonely = confined
    _leave(uid, home, parent, ruleset)
    answers = _settle(pipes)
    try:
        header = frames.read_exactly(3, HEADER.size)
    except EOFError:  # the zygote has gone: there will be no request
        os._exit(0)
    cpu_s, memory, file_bytes, processes, serves, length = HEADER.unpack(header)
    work = marshal.loads(frames.read_exactly(3, length))
    if not serves:
        os.close(3)
    _limit(cpu_s, memory, file_bytes, processes + counted)
    if lonely:
        harden.filter_system_calls(lonely)
    answer(answers, work, serves)
    for name in ("stdout", "stderr"):
        try:  # noqa: SIM105 - a context manager is a page or two more to copy
            getattr(sys, name).flush()
        except BaseException:  # noqa: BLE001 - the candidate may have put anything there
            pass
    os._exit(0)


def _leave(uid: int | None, home: str, parent: int, ruleset: int | None) -> None:
    """Leave the zygote's session, uid and view of the file system behind."""
    _signal.pthread_sigmask(_UNBLOCK, _SIGCHLD)
    os.setsid()
    if uid is not None:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if parent:
        harden.die_with_parent(parent)
    if home:
        os.makedirs(home, mode=0o700, exist_ok=True)  # noqa: PTH103
        os.environ["TMPDIR"] = home
        os.chdir(home)
    if ruleset is not None:
        harden.enter_ruleset(ruleset)


def _settle(pipes: Pipes) -> int:
    """Leave the zygote's descriptors behind: 3 is the request, 4 the answers, and there are no others."""
    os.dup2(pipes.stdout, 1, inheritable=True)
    os.dup2(pipes.stderr, 2, inheritable=True)
    answers = os.dup(pipes.answers)
    request = os.dup(pipes.request)
    os.dup2(request, 3, inheritable=False)
    os.dup2(answers, 4, inheritable=False)
    os.closerange(5, _DESCRIPTORS)
    return 4


def _limit(cpu_s: float, memory: int, file_bytes: int, processes: int) -> None:
    """Set every limit hard, so that the candidate cannot set it back. Memory is on top of the interpreter."""
    for which, value in (
        (resource.RLIMIT_CPU, max(1, math.ceil(cpu_s))),
        (resource.RLIMIT_AS, memory + _baseline),
        (resource.RLIMIT_FSIZE, file_bytes),
        (_NPROC, processes),
    ):
        if which is not None:
            value = min(value, _most[which])
            resource.setrlimit(which, (value, value))


_NPROC = getattr(resource, "RLIMIT_NPROC", None)
_LOCKED = 64 << 10  # bytes; with 0, gVisor cannot patch system calls into jumps and traps each of them
_FIXED = {
    "RLIMIT_NOFILE": _DESCRIPTORS, "RLIMIT_CORE": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_MEMLOCK": _LOCKED,
    "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0,
}  # fmt: skip
_baseline = 0
_most: dict[int, int] = {}


def measure() -> None:
    """Note how much address space the interpreter has, and set the limits that are the same for every run.

    Called once, by the zygote, when it is warm; every child inherits what is set here.
    """
    global _baseline
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            _baseline = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no /proc on this system: leave room for an interpreter
        _baseline = 1 << 28
    for name, value in _FIXED.items():
        which = getattr(resource, name, None)
        if which is not None:
            value = min(value, _hard(which))
            if resource.getrlimit(which) != (value, value):  # gVisor lets some be set from outside only
                resource.setrlimit(which, (value, value))
    for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, _NPROC):
        if which is not None:
            _most[which] = _hard(which)


def _hard(which: int) -> int:
    """Return a limit as a number that can be compared."""
    most = resource.getrlimit(which)[1]
    return (1 << 63) - 1 if most == resource.RLIM_INFINITY else most


_PROGRAM = """
import math, re
def f(items, name="x", *more, **named):
    found = {}
    for index, item in enumerate(sorted(items, key=lambda one: -one)):
        if item % 2 == 0 and item not in found:
            found[item] = [name * index, str(item), round(item / 3, 2), "%d" % item]
    while len(found) > 2:
        found.popitem()
    parts = [len(part) for part in re.split("[ ,]", "a b,c")]
    return parts, found, {*items}, max(items), sum(item for item in items)
class C:
    def __init__(self, x):
        self.x = x
"""
_CALLS = ("f([3, 4, 8, 6])", "f((1, 2))", "C(2).x == 2", "'text'", "[1.5, True, None, math.pi]", "-7", "no")


def rehearse(times: int = 24) -> None:
    """Run a harmless program in this process, into nothing: called by the zygote before it forks.

    A first time writes all over the interpreter (caches, quickened code, symbols), and each page of that
    would be copied anew in each child, which costs more than what a short program does.
    """
    work = marshal.dumps(tuple(Work(_PROGRAM, "", _CALLS, ("assert f([2])",), None)))
    kept = sys.modules["__main__"]
    for _ in range(times):
        answer(-1, marshal.loads(work), False, lambda fd, data: None)
        sys.modules.pop(NAME)
        sys.modules["__main__"] = kept


def answer(
    fd: int, work: Work, serves: bool, write: Callable[[int, bytes], object] = frames.write_whole
) -> None:
    """Load the program, answer each call in order on `fd`, and then what a test asks, if it `serves` one."""

    clock, last, own = time.monotonic, time.monotonic(), os.getpid()

    def send(index: int, status: bytes, payload: bytes) -> None:
        nonlocal last
        if os.getpid() != own:  # a fork of the program has come back here: it has no answers to give
            os._exit(0)
        now = clock()
        write(fd, frames.ANSWER.pack(index, status, now - last, len(payload)) + payload)
        last = now

    program, setup, calls, beside, result = work
    module = types.ModuleType(NAME)
    sys.modules[NAME] = sys.modules["__main__"] = module
    space = module.__dict__
    try:
        _load(setup, program, space)
    except BaseException as error:  # noqa: BLE001 - a candidate may raise anything
        send(frames.LOAD, _kind(error), _describe(error, located=True))
        return
    send(frames.LOAD, frames.VALUE, b"")
    texts = [*calls, *beside] if result is None else [*calls, *beside, result]
    first, last_beside = len(calls), len(calls) + len(beside)
    for index, text in enumerate(texts):
        mode = "exec" if first <= index < last_beside else "eval"
        try:
            value = eval(compile(text, f"<call {index}>", mode, dont_inherit=True), space)
            payload = codec.encode(True if mode == "exec" else value)
        except BaseException as error:  # noqa: BLE001 - a candidate may raise anything
            send(index, frames.RAISED, _describe(error))
        else:
            send(index, frames.VALUE, payload)
    if serves:
        _serve(len(texts), send, space)


def _serve(count: int, send: Callable[[int, bytes, bytes], None], space: dict[str, Any]) -> None:
    numbers = itertools.count(count)
    serve.Server(
        lambda size: frames.read_exactly(3, size),
        lambda status, payload: send(next(numbers), status, payload),
        space,
    ).loop()


def _load(setup: str, program: str, space: dict[str, Any]) -> None:
    """Execute the setup and then the program; the setup once more afterwards, where it needs the program's
    names: MBPP has setups that build objects of a class which the program defines."""
    again = False
    if setup:
        prepared = compile(setup, "<setup>", "exec", dont_inherit=True)
        try:
            exec(prepared, space)
        except NameError:
            again = True
    exec(compile(program, "<program>", "exec", dont_inherit=True), space)
    if again:
        exec(prepared, space)


def _kind(error: BaseException) -> bytes:
    """Say what a failed load was: an exit, memory, a refused process, or an exception like any other."""
    kinds = type(error).__mro__
    if SystemExit in kinds:
        return frames.EXITED
    if MemoryError in kinds:
        return frames.NO_MEMORY
    if BlockingIOError in kinds or (RuntimeError in kinds and "can't start new thread" in str(error)):
        return frames.NO_PROCESS
    return frames.RAISED


def _describe(error: BaseException, located: bool = False) -> bytes:
    """Return `ValueError: text`, with the program's line when `located`; never raises."""
    try:
        text = f"{type(error).__name__}: {error}"[:MESSAGE_MAX]
        if located:
            line, trace = None, error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == "<program>":
                    line = trace.tb_lineno
                trace = trace.tb_next
            text += f" (line {line})" if line else ""
        return text.encode("utf-8", "backslashreplace")
    except BaseException:  # noqa: BLE001 - __str__ is the candidate's
        return b"an exception that cannot be described"
