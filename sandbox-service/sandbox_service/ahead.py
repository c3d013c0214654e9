"""Programs that wait for a lane are compiled meanwhile, by a worker: the room's end of the pipe to it.

Nothing ever waits for it. A run whose code is not there when its lane is compiles its program itself; so a
worker that hangs or dies costs time, and no verdict. What it sends is passed on and not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from sandbox_service.compile_worker import HEADER, longest
from sandbox_service.judge_link import PYTHON_ENVIRONMENT
from sandbox_service.run import Run

log = logging.getLogger(__name__)

CPU_S = 0.2
_LONGEST = 20_000  # characters of a program; a longer one compiles itself
_WAITING_BYTES = 16 << 20  # of requests that are not answered
_RECYCLE = 20_000
_AGAIN_S = 1.0  # between the deaths of two workers: who kills them wins nothing but the speed that is lost
_SCRIPT = """
import sys
sys.path[0] = sys.argv[1]
from sandbox_service.compile_worker import main
del sys.path[0]
main(float(sys.argv[2]), int(sys.argv[3]))
"""
_ROOT = str(Path(__file__).resolve().parents[1])

Take = Callable[[bytes], None]


class Ahead:
    """One worker, replaced when it dies; `start` once before it is of use.

    python  the interpreter whose code the jail runs; with None nothing is compiled ahead
    cpu_s   CPU time the texts of one run may take
    """

    def __init__(self, python: Path | None, cpu_s: float = CPU_S) -> None:
        self.python, self.cpu_s, self.starts, self.made = python, cpu_s, 0, 0
        self._pipe: _Pipe | None = None
        self._starting: asyncio.Task[None] | None = None
        self._next_start = 0.0

    def want(self, run: Run, take: Take) -> None:
        """Have a run's texts compiled; `take` is called with the code, if and when it comes.

        Not those of a script, nor where tests run beside the program: they hold what is expected.
        """
        if self.python is None or run.stdin is not None or run.beside or len(run.program) > _LONGEST:
            return
        if self._pipe is None or self._pipe.gone:
            self.start()
        elif self._pipe.unanswered_bytes < _WAITING_BYTES:
            texts = run.setup, run.program, run.calls, run.result
            self._pipe.ask(marshal.dumps(texts, 2), take)

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return None if self._pipe is None or self._pipe.gone else self._pipe.transport.get_pid()

    def start(self) -> None:
        """Begin to start the worker, unless it is being started or its last start was a moment ago."""
        if self.python is None:
            return
        if (self._starting is None or self._starting.done()) and time.monotonic() >= self._next_start:
            self._next_start = time.monotonic() + _AGAIN_S
            self._starting = asyncio.create_task(self._started())

    async def _started(self) -> None:
        assert self.python is not None
        self.starts += 1
        try:
            _, pipe = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Pipe(self), str(self.python), "-s", "-S", "-c", _SCRIPT, _ROOT, str(self.cpu_s),
                str(os.getpid()), stderr=None, env=PYTHON_ENVIRONMENT, cwd="/",
            )  # fmt: skip
        except OSError as error:
            log.warning("nothing is compiled ahead: %s", error)
            return
        self._pipe = pipe

    async def aclose(self) -> None:
        """End the worker."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._pipe is not None:
            await self._pipe.end()


class _Pipe(asyncio.SubprocessProtocol):
    """One worker's pipes, and what it was asked and has not answered."""

    def __init__(self, ahead: Ahead) -> None:
        self.ahead, self.gone, self.count = ahead, False, 0
        self.unanswered: dict[int, tuple[int, Take]] = {}
        self.unanswered_bytes = 0
        self._exited = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's is none by its class
        self.input = cast(asyncio.WriteTransport, self.transport.get_pipe_transport(0))

    def ask(self, body: bytes, take: Take) -> None:
        """Send one request; those of one turn of the loop cross together."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self.count += 1
        self.unanswered[self.count] = len(body), take
        self.unanswered_bytes += len(body)
        self._unsent += (HEADER.pack(self.count, len(body)), body)

    def _send(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if not self.gone:
            self.input.write(data)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._buffer += data
        at, size = 0, HEADER.size
        while len(self._buffer) - at >= size:
            number, length = HEADER.unpack_from(self._buffer, at)
            asked = self.unanswered.get(number)
            if asked is None or length > longest(asked[0]):
                log.warning(
                    "the compiler's answer %d of %d bytes was not asked for: it is ended", number, length
                )
                self._kill()
                return
            if len(self._buffer) - at - size < length:
                break
            del self.unanswered[number]
            self.unanswered_bytes -= asked[0]
            self.ahead.made += bool(length)
            asked[1](bytes(self._buffer[at + size : at + size + length]))
            at += size + length
        del self._buffer[:at]
        if self.count >= _RECYCLE:
            self._kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.gone = True

    def process_exited(self) -> None:
        self.gone = True
        self.unanswered.clear()
        self.transport.close()
        if not self._exited.done():
            self._exited.set_result(None)

    def _kill(self) -> None:
        self.gone = True
        with contextlib.suppress(ProcessLookupError):
            self.transport.kill()

    async def end(self) -> None:
        """Kill it and wait for its end."""
        if not self._exited.done():
            self._kill()
            await self._exited
