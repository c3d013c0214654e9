"""The room's end of the conversations between tests and programs: workers, and what passes between.

A worker runs a job's tests; a lane holds the program. What one asks and the other answers is carried here
and not looked at. A worker that dies of its test costs that and those after it, and nobody else anything. One
that dies of anything else is replaced once, and the program does not notice: what it answered is told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox_service.judge_link import PYTHON_ENVIRONMENT, PYTHON_FLAGS
from sandbox_service.judge_worker import Finding
from sandbox_service.rpc_pipe import ANSWER, ASK, END, GONE, HEADER, JOB, RESULT
from sandbox_service.rpc_plan import Remote
from sandbox_service.rpc_worker import CRASHED, OVER_LIMIT
from shared.errors import Broken
from shared.wire import Limits

log = logging.getLogger(__name__)

_START_S = 60.0
_GRACE_S = 5.0
_EXIT_S = 2.0
_REPEAT = "repeat the request"
_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from sandbox_service.rpc_worker import main
del sys.path[0]
main(int(sys.argv[2]))
"""
_ROOT = str(Path(__file__).resolve().parents[1])


class Worker:
    """One worker process. `start` before anything else."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, unless it runs; raises Broken when it does not come up."""
        if self.process is not None and self.process.returncode is None:
            return
        await self.end()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *PYTHON_FLAGS, "-c", _SCRIPT, _ROOT, str(os.getpid()),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=PYTHON_ENVIRONMENT, cwd="/",
        )  # fmt: skip
        try:
            kind, _ = await asyncio.wait_for(self.read(), _START_S)
        except (EOFError, asyncio.TimeoutError) as error:
            await self.end()
            raise Broken(f"a worker for tests did not start: {error!r}") from error
        if kind != END:
            raise Broken(f"a worker for tests began with {kind!r}")

    def write(self, kind: bytes, payload: bytes = b"") -> None:
        """Queue a frame. What a dead worker would have read is dropped."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self.process.stdin.write(HEADER.pack(kind, len(payload)) + payload)

    async def read(self) -> tuple[bytes, bytes]:
        """Return the next frame; raises EOFError when the worker is dead."""
        assert self.process is not None and self.process.stdout is not None
        try:
            kind, length = HEADER.unpack(await self.process.stdout.readexactly(HEADER.size))
            return kind, await self.process.stdout.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise EOFError("it died") from None

    async def status(self) -> int:
        """Return what it ended with, once it is dead; negative for a signal."""
        process = self.process
        assert process is not None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _EXIT_S)
        await self.end()
        return await process.wait()

    async def end(self) -> None:
        """Kill it, whatever it does."""
        process, self.process = self.process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            await process.wait()


class Workers:
    """As many workers as there are lanes, started when they are first needed."""

    def __init__(self, count: int) -> None:
        self.free: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        self.all = [Worker() for _ in range(count)]
        for worker in self.all:
            self.free.put_nowait(worker)

    async def aclose(self) -> None:
        """End all."""
        await asyncio.gather(*(worker.end() for worker in self.all))


class Talk:
    """One conversation: a job's tests with one run of its program. A lane calls `begin`, `heard`, `gone`."""

    def __init__(self, workers: Workers, tests: Sequence[Remote], limits: Limits) -> None:
        self.workers, self.tests, self.limits = workers, tests, limits
        self.findings: list[tuple[Finding, float]] = []
        self._ask: Callable[[bytes], None] | None = None
        self._worker: Worker | None = None
        self._told: list[tuple[bytes, bytes]] = []  # all of it, for a worker that comes later
        self._asked: list[int] = []  # hashes of what the program was asked
        self._task: asyncio.Task[None] | None = None
        self._gone = False

    def begin(self, ask: Callable[[bytes], None]) -> None:
        """The program is loaded and its plain calls are answered: `ask` sends it bytes, empty ones end it."""
        self._ask = ask
        self._task = asyncio.create_task(self._converse())

    def heard(self, status: bytes, payload: bytes) -> None:
        """The program answered."""
        self._tell(ANSWER, status + payload)

    def gone(self) -> None:
        """The run is over. Where the tests are not, they are told."""
        self._gone, self._ask = True, None
        if self._task is not None:
            self._tell(GONE, b"")

    def _tell(self, kind: bytes, payload: bytes) -> None:
        self._told.append((kind, payload))
        if self._worker is not None:
            self._worker.write(kind, payload)

    async def finished(self) -> list[tuple[Finding, float]]:
        """Return a finding and its milliseconds for each test that was begun. Raises Broken when no worker
        can be had."""
        if self._task is not None:
            await self._task
        return self.findings

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        if self._task is not None:
            self._task.cancel()

    async def _converse(self) -> None:
        worker = await self.workers.free.get()
        try:
            if not self._gone:
                await self._tried(worker)
        except TimeoutError:
            await worker.end()
            self._limit(f"more than {self.limits.wall_s:g} s")
        except BaseException:
            await worker.end()
            raise
        finally:
            self._worker = None
            self.workers.free.put_nowait(worker)
            if self._ask is not None:
                self._ask(b"")

    async def _tried(self, worker: Worker) -> None:
        """Have the tests run, and once more where the worker died of something else than they are.

        raises  Broken where the second time is no use either, unless it is a test that crashes it
        """
        first = status = await self._held(worker)
        if status not in (None, OVER_LIMIT):
            log.warning("a worker for tests died, exit %s; trying once more", status)
            status = await self._held(worker)
            if status is None and self._gone and first != CRASHED:
                raise Broken("a worker for tests died, and the run ended before its tests did", hint=_REPEAT)
        if status == OVER_LIMIT:
            self._limit(f"more than {self.limits.cpu_s:g} s of CPU, or more memory than it may have")
        elif status is not None and CRASHED in (first, status):
            self._limit("it ended its worker")
        elif status is not None:
            raise Broken(f"a worker for tests died twice, exit {status}", hint=_REPEAT)

    async def _held(self, worker: Worker) -> int | None:
        """Run the tests in a worker to their end, or its own: return what it ended with then."""
        await worker.start()
        self.findings.clear()
        self._worker = worker
        tests = [[one.source, one.setup, one.names, one.errors, one.collect] for one in self.tests]
        worker.write(JOB, json.dumps({"tests": tests, "cpu_s": self.limits.cpu_s}).encode())
        for kind, payload in self._told:
            worker.write(kind, payload)
        try:
            async with asyncio.timeout(self.limits.wall_s + _GRACE_S):
                await self._carry(worker)
        except EOFError:
            self._worker = None
            return await worker.status()
        return None

    async def _carry(self, worker: Worker) -> None:
        """Carry frames until the job is done; raises EOFError when the worker is dead, or of no use."""
        asks = 0
        while True:
            kind, payload = await worker.read()
            if kind == END:
                return
            if kind == RESULT:
                outcome, message, wall_ms = json.loads(payload)
                self.findings.append((Finding(str(outcome), str(message)), float(wall_ms)))
            elif kind == ASK:
                self._carry_ask(asks, payload)
                asks += 1

    def _carry_ask(self, number: int, payload: bytes) -> None:
        """Ask the program, unless it was asked this before: then its answer is told already."""
        if number == len(self._asked):
            self._asked.append(hash(payload))
            if self._ask is not None:
                self._ask(payload)
        elif self._asked[number] != hash(payload):
            raise EOFError("it asks something else than the one before it")

    def _limit(self, why: str) -> None:
        """The test at work took too much, and those after it are not run."""
        if len(self.findings) < len(self.tests):
            self.findings.append((Finding("limit", why), 0.0))
        while len(self.findings) < len(self.tests):
            self.findings.append((Finding("skipped", "not run: an earlier test was over the limit"), 0.0))
