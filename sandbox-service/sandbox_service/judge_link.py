"""The judge's end of the pipe to its worker: feeds it, times it, and replaces it when it dies.

A worker that dies on one program's values costs that program its test, and nobody else anything. A worker
that is killed from outside twice on the same verdict is the room's failure: Broken, and no verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_service.judge_worker import HEADER, Finding
from sandbox_service.run import Answer
from shared.errors import Broken

log = logging.getLogger(__name__)

CPU_S = 1.0
WALL_S = 20.0  # a backstop for a starved machine; CPU time decides
_START_S = 60.0
_RECYCLE = 20_000
_BATCH = 32
# Not -I: it would ignore the hash seed, and the order of a set of strings would hang on the worker's birth.
PYTHON_FLAGS = ("-s", "-S", "-P")
PYTHON_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from sandbox_service.judge_worker import main
del sys.path[0]
main(float(sys.argv[2]), int(sys.argv[3]))
"""
_ROOT = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Case:
    """One test to evaluate: its remainder, the sources of its calls, and what came back for each."""

    remainder: str
    calls: tuple[str, ...]
    answers: tuple[Answer, ...]


@dataclass
class _Verdict:
    """The cases of one verdict on their way through the worker."""

    frame: bytes
    count: int
    done: asyncio.Future[list[Finding]]
    findings: list[Finding] = field(default_factory=list)
    deaths: int = 0


class JudgeLink:
    """One worker process, started when first needed.

    cpu_s   CPU time one test may take
    wall_s  time until a worker that answers nothing is replaced
    """

    def __init__(self, cpu_s: float = CPU_S, wall_s: float = WALL_S) -> None:
        self.cpu_s, self.wall_s, self.starts, self.limits = cpu_s, wall_s, 0, 0
        self._waiting: deque[_Verdict] = deque()
        self._process: asyncio.subprocess.Process | None = None
        self._served = 0
        self._overdue = False
        self._task: asyncio.Task[None] | None = None
        self._since = 0.0
        self._watching: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return None if self._process is None else self._process.pid

    async def evaluate(self, cases: Sequence[Case]) -> list[Finding]:
        """Return one finding for each case; raises Broken if the worker cannot be kept alive."""
        if not cases:
            return []
        verdict = _Verdict(_frame(cases), len(cases), asyncio.get_running_loop().create_future())
        self._waiting.append(verdict)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return await verdict.done

    async def aclose(self) -> None:
        """End the worker; what still waits is Broken."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end()

    async def _serve(self) -> None:
        """Take what waits, in batches, until nothing does."""
        while self._waiting:
            batch = [verdict for verdict in _take(self._waiting) if not verdict.done.cancelled()]
            try:
                await self._exchange(batch)
            except Exception as error:
                log.exception("the judge's worker failed")
                _refuse(batch, error)
                await self._end()  # it may be half-way through an answer
            except asyncio.CancelledError as error:
                _refuse([*batch, *self._waiting], error)
                self._waiting.clear()
                raise

    async def _exchange(self, batch: list[_Verdict]) -> None:
        """Send a batch and read its findings; after a death, go on with a new worker where it was."""
        while batch:
            process = await self._started()
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.writelines([verdict.frame for verdict in batch])
            await self._read_all(process, batch)
            if batch:
                await self._bury(batch)
        if self._served >= _RECYCLE:
            await self._end()

    async def _read_all(self, process: asyncio.subprocess.Process, batch: list[_Verdict]) -> None:
        """Take the verdicts that are answered from the batch's head, until all are or the worker dies."""
        self._heard()
        self._watch()
        try:
            while batch and await self._read(process, batch[0]):
                done = batch.pop(0)
                self._served += 1
                if not done.done.done():
                    done.done.set_result(done.findings)
        finally:
            if self._watching is not None:
                self._watching.cancel()

    def _heard(self) -> None:
        self._since = asyncio.get_running_loop().time()

    def _watch(self) -> None:
        """Kill a worker that said nothing for `wall_s`: one timer for all answers."""
        loop = asyncio.get_running_loop()
        left = self._since + self.wall_s - loop.time()
        if left <= 0:
            self._kill()
        else:
            self._watching = loop.call_later(left, self._watch)

    async def _read(self, process: asyncio.subprocess.Process, verdict: _Verdict) -> bool:
        """Read one verdict's findings. False if the worker died, or is not to be used again."""
        assert process.stdout is not None
        healthy = True
        while len(verdict.findings) < verdict.count:
            line = await process.stdout.readline()
            self._heard()
            if not line.endswith(b"\n"):
                return False
            outcome, message = json.loads(line)
            verdict.findings.append(Finding(str(outcome), str(message)))
            healthy = healthy and outcome != "limit"
        if not healthy:
            self._served = _RECYCLE
        return True

    async def _bury(self, batch: list[_Verdict]) -> None:
        """Decide whose fault a death is: a limit is the head's answer, anything else is tried once more."""
        head, overdue = batch[0], self._overdue
        code = await self._end()
        head.deaths += 1
        if code == -signal.SIGPROF:
            self.limits += 1
            _give_up(head, f"more than {self.cpu_s:g} s of CPU")
        elif head.deaths == 1:
            head.findings.clear()
            return
        elif overdue or code == -signal.SIGKILL:
            batch.pop(0)
            if head.done.done():
                return
            head.done.set_exception(
                Broken(f"the judge's worker died twice (exit {code})", hint="repeat the request")
            )
            return
        else:
            log.warning("one verdict's values ended the judge's worker twice, exit %s", code)
            _give_up(head, f"it ended the worker, exit {code}")
        batch.pop(0)
        if not head.done.done():
            head.done.set_result(head.findings)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self.starts, self._served, self._overdue = self.starts + 1, 0, False
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *PYTHON_FLAGS, "-c", _SCRIPT, _ROOT, str(self.cpu_s), str(os.getpid()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env=PYTHON_ENVIRONMENT, cwd="/",
            )  # fmt: skip
            assert self._process.stdout is not None
            said = await asyncio.wait_for(self._process.stdout.readline(), _START_S)
            if said != b"ready\n":
                raise RuntimeError(f"it did not start: {said[:100]!r}")
        return self._process

    def _kill(self) -> None:
        self._overdue = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _end(self) -> int | None:
        """End the worker if it runs; return its exit status, negative for a signal."""
        process = self._process
        if process is None:
            return None
        assert process.stdin is not None
        process.stdin.close()
        try:
            code = await asyncio.wait_for(process.wait(), 2.0)
        except asyncio.TimeoutError:
            process.kill()
            code = await process.wait()
        with contextlib.suppress(ConnectionError):
            await process.stdin.wait_closed()
        self._process = None  # last: if this is cancelled, `aclose` ends the same process again
        return code


def _take(waiting: deque[_Verdict]) -> list[_Verdict]:
    return [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]


def _refuse(verdicts: Sequence[_Verdict], error: BaseException) -> None:
    """Give all that is not decided yet no verdict."""
    for verdict in verdicts:
        if not verdict.done.done():
            verdict.done.set_exception(
                Broken(f"the judge's worker failed: {error!r}", hint="repeat the request")
            )


def _give_up(verdict: _Verdict, why: str) -> None:
    """Fail the test the worker died on, and those after it: one verdict may kill one worker."""
    verdict.findings.append(Finding("limit", why))
    while len(verdict.findings) < verdict.count:
        verdict.findings.append(Finding("skipped", "not compared: an earlier comparison was over the limit"))


def _frame(cases: Sequence[Case]) -> bytes:
    head = json.dumps(
        [
            [case.remainder, case.calls, [[one.status, len(one.payload)] for one in case.answers]]
            for case in cases
        ]
    ).encode("ascii")
    body = b"".join([head, b"\n", *(one.payload for case in cases for one in case.answers)])
    return HEADER.pack(len(body)) + body
