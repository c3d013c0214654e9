"""The process that runs tests which cannot be taken apart, and asks the program what they call.

Started by `rpc_link` as `python -s -S -P` with a hash seed and nothing else in its environment. For each job
it forks a child that gives up everything but computing (the filter of `judge_worker`), runs the job's tests
one by one, and ends. A child that dies ends this process too, which `rpc_link` replaces. Standard library
only, and of this room what is.

    service -> worker   JOB (JSON), ANSWER (status byte and payload, the program's word), GONE (the run ended)
    worker -> service   ASK (marshal: op, target, args, kwargs), RESULT (JSON, one per test), END
    exit status         OVER_LIMIT, or CRASHED by what a test did; any other is no test's doing

Not covered: the tests' text is the client's, who holds the service's token; see `judge_worker`.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
import time
import traceback
import warnings
from typing import Any, NoReturn

from sandbox_service import rpc_rewrite
from sandbox_service.judge_worker import lock, printable
from sandbox_service.rpc_library import Failed, run_collected, strict
from sandbox_service.rpc_pipe import END, JOB, RESULT, Gone, Pipe, receive, send
from sandbox_service.rpc_plan import MODULES
from sandbox_service.rpc_remote import NotCarried, Untold

OVER_LIMIT, CRASHED, _FAILED = 4, 5, 3
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
_SLEEPS = {"x86_64": (35, 230, 39), "aarch64": (101, 115, 172)}  # nanosleep clock_nanosleep getpid

# --- one test ----------------------------------------------------------------------------------------


def run(source: str, setup: str, names: list[str], errors: list[str], collect: list[str]) -> tuple[str, str]:
    """Run one test; return its outcome and what is to be said of it."""
    pipe = Pipe(errors)
    found = _ran(pipe, source, setup, names, collect)
    match pipe.over:  # whatever else came of it: a test may swallow it, and fail or pass after that
        case Gone():
            return "missing", ""
        case NotCarried() as why:
            return "unsupported", str(why)
        case Untold() as why:
            return "failed", f'{why}; min_assurance "in_sandbox" runs the test beside the program'
    return found


def _ran(pipe: Pipe, source: str, setup: str, names: list[str], collect: list[str]) -> tuple[str, str]:
    try:
        space: dict[str, Any] = {
            "__builtins__": rpc_rewrite.given(pipe),
            "__name__": "test",
        }
        exec(rpc_rewrite.code(setup, "<setup>"), space)
        for name, there in zip(names, pipe.names(names), strict=True):
            if there:  # an absent one is left to Python, whose NameError a test may expect
                space[name] = pipe.ask("load", name, (), {})
        pipe.learn_errors()
        space.update(pipe.errors.named)
        exec(rpc_rewrite.code(source, "<test>"), space)
        if collect:
            run_collected(space, collect)
    except (MemoryError, RecursionError) as error:
        if not hasattr(error, "of_the_program"):
            return "limit", type(error).__name__
        return "memory" if isinstance(error, MemoryError) else "raised", _said(error, source)
    except (AssertionError, Failed) as error:
        text = _text(error)
        return "failed", f"{_where(error, source)}: {text}" if text else _where(error, source)
    except Exception as error:  # noqa: BLE001 - whatever a test raises over a program's values is a failure
        return "raised", _said(error, source)
    except BaseException as error:  # noqa: BLE001 - as SystemExit, or a class of the test's own
        return "failed", f"the test left early: {type(error).__name__}"
    return "passed", ""


def _said(error: BaseException, source: str) -> str:
    return f"{_where(error, source)}: {type(error).__name__}: {_text(error)}"


def _text(error: BaseException) -> str:
    """Return an exception's text, which may ask the program for that of its objects."""
    try:
        return str(error)
    except MemoryError:
        raise
    except BaseException:  # noqa: BLE001 - what it raises is no more than a missing text
        return "its text cannot be had"


def _where(error: BaseException, source: str) -> str:
    """Return the test's line an exception came from."""
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == "<test>"]
    texts = source.splitlines()
    if not lines or lines[-1] is None or not 0 < lines[-1] <= len(texts):
        return "the test"
    return f"line {lines[-1]}, `{texts[lines[-1] - 1].strip()[:100]}`"


# --- the process -------------------------------------------------------------------------------------


def main(parent: int) -> NoReturn:
    """Serve jobs until the pipe ends: a fork for each."""
    warnings.simplefilter("ignore")
    for name in MODULES - {"pytest", "__future__"}:
        importlib.import_module(name)
    strict()
    from sandbox_service.inside import harden

    if harden.LINUX:
        harden.die_with_parent(parent)
        harden.not_dumpable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = os.getpid()
    send(END)
    while True:
        try:
            kind, payload = receive()
        except EOFError:
            sys.exit(0)
        if kind != JOB:
            continue
        pid = os.fork()
        if pid == 0:
            _fork(payload, own)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status in (OVER_LIMIT, -signal.SIGPROF):
            os._exit(OVER_LIMIT)
        if status:
            os._exit(CRASHED if status == CRASHED or -status in _CRASHES else _FAILED)
        send(END)


def _fork(payload: bytes, parent: int) -> NoReturn:
    """Do a job and end, whatever comes: a fork must not go on as its parent."""
    status = _FAILED
    try:
        sys.stdout = io.StringIO()  # what a test prints is nobody's
        lock(parent, _SLEEPS)
        status = CRASHED
        _job(json.loads(payload))
        status = 0
    except MemoryError:
        status = OVER_LIMIT if status == CRASHED else status
    except BaseException:  # noqa: BLE001 - see above
        traceback.print_exc()
    finally:
        os._exit(status)


def _job(job: dict[str, Any]) -> None:
    gone = False
    for source, setup, names, errors, collect in job["tests"]:
        began = time.monotonic()
        if gone:
            outcome, message = "missing", ""
        else:
            signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])
            outcome, message = run(source, setup, names, errors, collect)
            signal.setitimer(signal.ITIMER_PROF, 0)
            gone = outcome == "missing"
        wall_ms = (time.monotonic() - began) * 1e3
        send(RESULT, json.dumps([outcome, printable(message), wall_ms]).encode("ascii"))
