"""Warm lanes and who is to blame: every run gets a lane, and a lane that dies is replaced.

Attribution: a run that ends its jail is tried once more in a fresh one. If that dies too while a harmless
program still gets its answer, the program is the cause (`crashed`); otherwise a program could hide behind
our failures. If the harmless one fails as well, the room is broken, and there is no verdict.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from sandbox_service.jails.jail import Jail
from sandbox_service.lane import Lane
from sandbox_service.replies import LaneBroken
from sandbox_service.run import Answer, Ended, Run
from shared.errors import Broken, Unavailable
from shared.wire import Limits

log = logging.getLogger(__name__)

_CANARY = Run("answer = 6 * 7", "", ("answer",), Limits())
_NO_LANE_S = 30.0
_BACKOFF_S = (0.0, 0.1, 0.5, 2.0)


@dataclass
class Counts:
    """What happened in a pool since it started."""

    runs: int = 0
    deaths: int = 0
    starved: int = 0
    recycled: int = 0


class Pool:
    """`lanes` runs at a time, `spares` warm lanes beside them. Use `start` before and `close` after."""

    def __init__(self, jail: Jail, lanes: int, spares: int, recycle_runs: int) -> None:
        self.jail, self.lanes, self.spares, self.recycle_runs = jail, lanes, spares, recycle_runs
        self.counts = Counts()
        self.sick = ""
        self.took: Callable[[float], None] = lambda seconds: None
        # The lane that ran last is taken first: its pages are the warmest.
        self._warm: asyncio.LifoQueue[Lane] = asyncio.LifoQueue()
        self._slots = asyncio.Semaphore(lanes)
        self._all: set[Lane] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        """Warm all lanes; raises Unavailable, with what the jail said, when one cannot be started."""
        numbers = range(self.lanes + self.spares)
        results = await asyncio.gather(*(self._open(number) for number in numbers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                await self.close()
                raise Unavailable(f"{self.jail.name}: {result}") from result

    async def close(self) -> None:
        """End all lanes and everything in them."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self._all))
        self._all.clear()
        await asyncio.to_thread(self.jail.close)

    async def run(self, run: Run) -> Ended:
        """Run a program to its end, whatever that is.

        raises  Broken when not even a harmless program gets its answer; Unavailable when no lane can be
                started. Both are the room's failure, never a verdict.
        """
        self.counts.runs += 1
        ended = await self._attributed(run)
        if ended.starved:
            self.counts.starved += 1
            ended = await self._attributed(run)
        return ended

    async def _attributed(self, run: Run) -> Ended:
        try:
            return await self._once(run, lambda lane: False)
        except LaneBroken as error:
            self.counts.deaths += 1
            log.warning("a jail died with its program; trying once more: %s", error)
        try:
            return await self._once(run, lambda lane: lane.runs > 0)
        except LaneBroken as error:
            self.counts.deaths += 1
            await self._canary(error)
            missing = (Answer("missing", b"", 0.0),) * (
                len(run.calls) + len(run.beside) + (run.result is not None)
            )
            return Ended("crashed", f"it ended its jail twice: {error}", missing, 0.0, 0.0, None, "", "")

    async def _canary(self, death: LaneBroken) -> None:
        try:
            ended = await self._once(_CANARY, lambda lane: False)
        except LaneBroken as error:
            raise Broken(f"jails die with a harmless program too: {error}") from death
        if ended.how != "answered":
            raise Broken(f"a harmless program got no answer: {ended.how} {ended.detail}") from death

    async def _once(self, run: Run, unfit: Callable[[Lane], bool]) -> Ended:
        """Run on one lane; raise LaneBroken when it dies. `unfit` says which lanes are not fresh enough."""
        async with self._slots:
            lane = await self._take()
            if unfit(lane):
                self._retire(lane)
                lane = await self._take()
            started = time.monotonic()
            try:
                return await lane.run(run)
            finally:
                self.took(time.monotonic() - started)
                if lane.broken or lane.runs >= self.recycle_runs:
                    self._retire(lane)
                else:
                    self._warm.put_nowait(lane)

    async def _take(self) -> Lane:
        while True:
            try:
                # Almost always one is there; to wait with a limit costs a task.
                lane = self._warm.get_nowait() if self._warm.qsize() else await self._next()
            except asyncio.TimeoutError:
                raise Unavailable(f"no lane could be started: {self.sick}", retry_after_s=5) from None
            if not lane.broken:
                return lane
            self._retire(lane)

    async def _next(self) -> Lane:
        return await asyncio.wait_for(self._warm.get(), _NO_LANE_S)

    def _retire(self, lane: Lane) -> None:
        """Close a lane and put a fresh one in its place, in the background."""
        self.counts.recycled += 1
        task = asyncio.create_task(self._replace(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, lane: Lane) -> None:
        await lane.close()
        self._all.discard(lane)
        attempt = 0
        while not self._closing:
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            try:
                await self._open(lane.number)
            except (LaneBroken, OSError) as error:
                attempt += 1
                self.sick = str(error)
                log.error("lane %d cannot be started: %s", lane.number, error)
            else:
                self.sick = ""
                return

    async def _open(self, number: int) -> None:
        lane = Lane(self.jail, number)
        self._all.add(lane)
        try:
            await lane.warm()
        except BaseException:
            await lane.close()
            self._all.discard(lane)
            raise
        self._warm.put_nowait(lane)
