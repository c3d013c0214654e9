"""Processes that start with their libraries loaded, for tests that start many: a sixth of the processor time.

The trainer and the services spend most of a start on importing other people's libraries. Each test worker has
two processes that have done so, one with torch and one without; the one that fits forks, and the fork becomes
the command: its own pid, a child of the test, with the environment, folder, files and signals that were asked
for. Our own code is imported anew by each. What asks for more is started in the ordinary way, and so is every
process that something else than a test starts.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import functools
import gc
import inspect
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WEB = (
    "fastapi", "fastapi.staticfiles", "fastapi_standalone_docs", "httpx", "prometheus_client", "pydantic.v1",
    "pydantic_settings", "sqlite3", "statistics", "structlog", "unittest", "uvicorn", "uvicorn.lifespan.on",
    "uvicorn.protocols.http.h11_impl",
)  # fmt: skip
TORCH = (
    *WEB, "torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2",
    "trl.trainer.grpo_trainer", "accelerate", "datasets", "peft",
)  # fmt: skip
# Variables that the libraries above, or Python itself, read once and for all.
READ_ONCE = (
    "ACCELERATE_", "DATASETS_", "GOMP_", "HF_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_", "OMP_",
    "PYTHON", "PYTORCH_", "TORCH", "TRANSFORMERS_", "TRL_",
)  # fmt: skip
PR_SET_CHILD_SUBREAPER = 36
LONGEST = 1 << 20
WORKER = "-u"  # the first word of the command by which pytest-xdist starts one
_ordinary = subprocess.Popen


class Popen(_ordinary):  # type: ignore[type-arg]
    """subprocess.Popen, which forks the warm process where that makes no difference to the command."""

    def _execute_child(self, *positional: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*positional).arguments
        libraries = _libraries(given) if _can_be_forked(given) else ()
        warm = _warm(libraries) if libraries else None
        if warm is None or warm.environment != _read_once(_environment(given)):
            super()._execute_child(*positional)  # type: ignore[misc]
            return
        ends = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        preexec = given["preexec_fn"]
        self.pid = warm.fork(
            {
                "words": [os.fspath(word) for word in given["args"][1:]],
                "environment": dict(_environment(given)),
                "folder": os.fspath(given["cwd"] or Path.cwd()),
                "session": bool(given["start_new_session"]),
                "first": preexec and [preexec.__module__, preexec.__qualname__],
            },
            [own if end == -1 else end for own, end in enumerate(ends)],
        )
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in pipes))  # type: ignore[attr-defined]


def _environment(given: dict[str, Any]) -> Mapping[str, str]:
    return os.environ if given["env"] is None else given["env"]


def _libraries(given: dict[str, Any]) -> tuple[str, ...]:
    """Return the libraries that a command loads in any case; none if it is not one of ours, or no Linux."""
    if sys.platform != "linux":
        return ()
    match given["args"]:
        case [sys.executable, "-m", "trainer.cli" | "transformers.cli.transformers", *_]:
            return TORCH
        case [sys.executable, "-m", "decoder_service"]:
            return TORCH if _environment(given).get("DECODER_ENGINE", "hf") == "hf" else WEB
        case [sys.executable, "-m", "sandbox_service" | "playground"]:
            return WEB
        case [sys.executable, str(word), "-c", _] if word == WORKER:
            return TORCH
        case [sys.executable, Path() as script, *_]:
            return TORCH if "import torch\n" in script.read_text(encoding="utf-8") else WEB
    return ()


def _can_be_forked(given: dict[str, Any]) -> bool:
    """Does it ask for nothing that only a process of its own can be given?"""
    more = ("executable", "pass_fds", "shell", "gid", "gids", "uid")
    asked = [name for name in more if given[name] not in (None, -1, (), False)]
    first = given["preexec_fn"]
    return not asked and given["umask"] == -1 and (first is None or "<" not in first.__qualname__)


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that only a process of its own would read again."""
    found = {n: v for n, v in environment.items() if n.startswith(READ_ONCE) and n != "PYTHONPATH"}
    # As both rooms set it, before they import anything.
    return {"HF_HUB_DISABLE_TELEMETRY": "1", **found}


class _Warm:
    """A process that has imported some libraries, and forks: `end` is where it is asked.

    environment  what the libraries have read of it
    wait         waits for its end, and returns its status
    """

    def __init__(self, environment: dict[str, str], end: socket.socket, wait: Callable[[], int]) -> None:
        self.environment = environment
        self._lock = threading.Lock()
        self._socket, self._wait = end, wait
        atexit.register(self._end)

    def _end(self) -> None:
        self._socket.close()
        self._wait()

    def fork(self, what: dict[str, Any], files: list[int]) -> int:
        """Have it fork; return the pid of the new process, which is a child of this one."""
        with self._lock:
            prctl = ctypes.CDLL(None, use_errno=True).prctl
            # Whoever is orphaned now becomes ours: the fork's parent ends at once.
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [json.dumps(what).encode()], files)
                pid = self._socket.recv(LONGEST)
            finally:
                prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not pid:
            raise RuntimeError(f"the process that forks has ended (exit code {self._wait()})")
        return int(pid)


_known: dict[tuple[str, ...], _Warm] = {}


def _warm(libraries: tuple[str, ...]) -> _Warm:
    """Return the one that has these libraries, started with the first command that loads them."""
    if libraries not in _known:
        ours, its = _ends()
        with its:
            words = [sys.executable, __file__, str(its.fileno()), *libraries]
            environment = _read_once(os.environ)
            variables = {**os.environ, **environment}
            process = _ordinary(words, env=variables, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
        _known[libraries] = _Warm(environment, ours, process.wait)
    return _known[libraries]


def _wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _serve(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each request; return it in the fork, and None when nobody can ask any more."""
    while True:
        data, ancillary, _, _ = end.recvmsg(LONGEST, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        if not data:
            return None
        files = array.array("i")
        for _, _, sent in ancillary:
            files.frombytes(sent)
        told, tell = os.pipe()
        waits, go = os.pipe()
        between = os.fork()
        if between == 0:
            os.close(go)
            child = os.fork()
            if child:
                os.write(tell, str(child).encode())
                os._exit(0)
            end.close()
            os.close(told)
            os.close(tell)
            # Until it has the parent that it keeps.
            os.read(waits, 1)
            os.close(waits)
            return json.loads(data), list(files)
        os.waitpid(between, 0)
        end.send(os.read(told, 32))
        for file in (told, tell, waits, go, *files):
            os.close(file)


def _become(what: dict[str, Any], files: list[int]) -> None:
    """Be `python -m MODULE ...` or `python SCRIPT`, started as the request says."""
    if what["session"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.chdir(what["folder"])
    os.environ.clear()
    os.environ.update(what["environment"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
            errors="backslashreplace" if number == 2 else "strict", line_buffering=number == 2,
        )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    by_name = what["words"][0] in ("-m", WORKER)
    sys.argv = what["words"][by_name:]
    sys.path[:1] = [what["folder"] if by_name else str(Path(sys.argv[0]).parent), *places]
    if what["first"]:
        module, name = what["first"]
        getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name)()


def _main() -> None:
    environment = _read_once(os.environ)  # the libraries write to it
    gc.disable()
    for library in sys.argv[2:]:
        __import__(library)
    gc.freeze()
    gc.enable()
    job = _serve(socket.socket(fileno=int(sys.argv[1])))
    while job is not None and job[0]["words"][0] == WORKER:
        ours, its = _ends()
        pid = os.fork()
        if pid:
            its.close()
            _known[tuple(sys.argv[2:])] = _Warm(environment, ours, functools.partial(_wait, pid))
            break
        ours.close()
        for file in job[1]:
            os.close(file)
        job = _serve(its)
    if job is None:
        return
    _become(*job)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    match job[0]["words"]:
        case ["-m", *_]:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        case [str(first), _, code] if first == WORKER:
            sys.modules["warm"] = sys.modules["__main__"]  # where the worker finds who forks for it
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(code, vars(main))
        case _:
            runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
