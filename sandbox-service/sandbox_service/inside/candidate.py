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
import os
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from sandbox_service.inside import codec, compiling, frames, harden, limits, script, serve

# limits as they cross the child's own pipe: cpu_s, memory, file bytes, processes, answers a test, body length
HEADER = struct.Struct("!dQQI?I")
MESSAGE_MAX = 1000
NAME = "program"
OWN = "{uid}"  # in the path of `home`: each child has one of its own
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
    stdin    run the program as a script that reads this, and answer nothing; None for all else
    files    (name, content) to be there before it runs
    code     setup, program and texts as `compiling.Codes`, by `marshal`; empty where nobody made it ahead
    """

    program: str
    setup: str
    calls: tuple[str, ...]
    beside: tuple[str, ...]
    result: str | None
    stdin: str | None = None
    files: tuple[tuple[str, bytes], ...] = ()
    code: bytes = b""


STDIN = Work._fields.index("stdin")


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
    if work[STDIN] is not None:
        script.prepare(Work(*work))
    limits.limit(cpu_s, memory, file_bytes, processes + counted)
    if lonely:
        harden.filter_system_calls(lonely)
    code = 0
    if work[STDIN] is None:
        answer(answers, work, serves)
    else:
        code = script.run(answers, Work(*work), _report)
    for name in ("stdout", "stderr"):
        try:  # noqa: SIM105 - a context manager is a page or two more to copy
            getattr(sys, name).flush()
        except BaseException:  # noqa: BLE001 - the candidate may have put anything there
            pass
    os._exit(code)


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
    os.closerange(5, limits.DESCRIPTORS)
    return 4


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
    beside = ("assert f([2])",)
    made = marshal.dumps(tuple(compiling.codes("", _PROGRAM, _CALLS, beside, None)))
    works = [marshal.dumps(tuple(Work(_PROGRAM, "", _CALLS, beside, None, code=one))) for one in (b"", made)]
    kept = sys.modules["__main__"]
    for count in range(times):
        answer(-1, marshal.loads(works[count % 2]), False, lambda fd, data: None)
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

    program, setup, calls, beside, result, _, _, code = work
    made = compiling.load(code)
    module = types.ModuleType(NAME)
    sys.modules[NAME] = sys.modules["__main__"] = module
    space = module.__dict__
    try:
        _load(made, setup, program, space)
    except BaseException as error:  # noqa: BLE001 - a candidate may raise anything
        send(frames.LOAD, _kind(error), _describe(error, located=True))
        return
    send(frames.LOAD, frames.VALUE, b"")
    texts = compiling.texts(calls, beside, result)
    for index, (text, mode) in enumerate(texts):
        try:
            value = eval(made.texts[index] if made else compiling.text_code(index, text, mode), space)
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


def _load(made: compiling.Codes | None, setup: str, program: str, space: dict[str, Any]) -> None:
    """Execute the setup and then the program; the setup once more afterwards, where it needs the program's
    names: MBPP has setups that build objects of a class which the program defines."""
    again, prepared = False, made.setup if made else compiling.setup_code(setup)
    if prepared:
        try:
            exec(prepared, space)
        except NameError:
            again = True
    exec(made.program if made else compiling.program_code(program), space)
    if again and prepared:
        exec(prepared, space)


def _report(fd: int, error: BaseException) -> None:
    """Say what ended a script before its end."""
    payload = _describe(error, located=True)
    frames.write_whole(fd, frames.ANSWER.pack(frames.LOAD, _kind(error), 0.0, len(payload)) + payload)


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
