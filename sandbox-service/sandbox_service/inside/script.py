"""Run a program as `python file` would: `__main__`, a stdin, an exit status, a traceback. Stdlib only."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_service.inside.candidate import Work


def prepare(work: Work) -> None:
    """Lay out what it reads and what is to lie beside it; called before the limits are set."""
    for name, content in work.files:
        if folder := os.path.dirname(name):  # noqa: PTH120 - pathlib is not worth its memory in a child
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(content)
    _read_from((work.stdin or "").encode("utf-8", "surrogatepass"))


def run(answers: int, work: Work, report: Callable[[int, BaseException], None]) -> int:
    """Run it and return its exit status. What it raises is reported on `answers`, its traceback printed."""
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = "program.py"
    sys.modules["__main__"] = module
    sys.argv[:] = ["program.py"]
    if work.files:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        if work.setup:
            exec(compile(work.setup, "<setup>", "exec", dont_inherit=True), module.__dict__)
        exec(compile(work.program, "<program>", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        return _status(error.code)
    except BaseException as error:  # noqa: BLE001 - a candidate may raise anything
        report(answers, error)
        _print(error)
        return 1
    return 0


def _read_from(data: bytes) -> None:
    """Make `data` what fd 0 reads: a file without a name, so that seeking and reading it twice work too."""
    if not data:
        return
    fd = os.open(".stdin", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(".stdin")  # noqa: PTH108
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def _print(error: BaseException) -> None:
    """Print the traceback from the program's own first line on."""
    try:
        import traceback

        trace = error.__traceback__
        while trace is not None and not trace.tb_frame.f_code.co_filename.startswith("<"):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
    except BaseException:  # noqa: BLE001 - __str__ is the candidate's, and so is sys.stderr
        pass
