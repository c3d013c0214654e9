"""Warm lanes and who is to blame: every run gets a lane, and a lane that dies is replaced.

Attribution: a run that ends its jail is tried once more in a fresh one. If that dies too while a harmless
program still gets its answer, the program is the cause (`crashed`); otherwise a program could hide behind
our failures. If the harmless one fails as well, the room is broken, and there is no verdict.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sandbox_service.ahead import Ahead
from sandbox_service.jails.jail import Jail
from sandbox_service.lane import Lane
from sandbox_service.lengths import Lengths
from sandbox_service.replies import LaneBroken
from sandbox_service.run import Answer, Conversation, Ended, Run
from shared.errors import Broken, Unavailable
from shared.wire import Limits

log = logging.getLogger(__name__)

_CANARY = Run("answer = 6 * 7", "", ("answer",), Limits())
_NO_LANE_S = 30.0
_CONTENDED = 1.3
_BACKOFF_S = (0.0, 0.1, 0.5, 2.0)


MakeTalk = Callable[[], Conversation | None]


def no_talk() -> None:
    """Nobody asks a run that does not serve."""


@dataclass
class Counts:
    """What happened in a pool since it started."""

    runs: int = 0
    deaths: int = 0
    starved: int = 0
    recycled: int = 0


@dataclass(eq=False)
class _Turn:
    """A run that waits for a lane or is in one's hands."""

    run: Run
    fresh: bool  # only in a lane that has run nothing yet
    done: asyncio.Future[Ended]
    talk: Conversation | None = None
    lane: Lane | None = None
    began: float = 0.0
    long: bool = False  # the last run with its calls was
    code: bytes = b""  # what was compiled while it waited

    def take(self, code: bytes) -> None:
        """Keep what was compiled."""
        self.code = code


def counted_while_waiting(ended: Ended) -> bool:
    """Whether a CPU limit may have been passed on a busy machine only, where CPU time is not exact: the
    program took much longer by the clock than it is said to have computed."""
    return (
        ended.how == "timeout"
        and ended.detail.startswith("CPU")
        and ended.wall_ms > _CONTENDED * ended.cpu_ms
    )


class Pool:
    """`lanes` runs at a time, `spares` warm lanes beside them. Use `start` before and `close` after.

    A lane that ends a run gets the next one in the same breath: it works while the loop deals with what
    came back.
    """

    def __init__(
        self, jail: Jail, lanes: int, spares: int, recycle_runs: int, compile_ahead: bool = True
    ) -> None:
        self.jail, self.lanes, self.spares, self.recycle_runs = jail, lanes, spares, recycle_runs
        self.ahead = Ahead(jail.compiler if compile_ahead else None)
        self.counts = Counts()
        self.sick = ""
        self.took: Callable[[float], None] = lambda seconds: None
        self._warm: list[Lane] = []  # the one that ran last is taken first: its pages are the warmest
        self._turns: deque[_Turn] = deque()
        self._lengths = Lengths()
        self._long_waiting = self._long_at_work = 0
        self._busy = 0
        self._lacking: asyncio.TimerHandle | None = None
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
        self.ahead.start()

    async def close(self) -> None:
        """End all lanes and everything in them."""
        self._closing = True
        self._enough()
        self._give_up("the sandbox is closing")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.ahead.aclose()
        await asyncio.gather(*(lane.close() for lane in self._all))
        self._all.clear()
        await asyncio.to_thread(self.jail.close)

    async def run(self, run: Run, talk: MakeTalk = no_talk) -> Ended:
        """Run a program to its end, whatever that is.

        talk    makes the conversation for a run that `serves`: a new one each time the program is run

        raises  Broken when not even a harmless program gets its answer; Unavailable when no lane can be
                started. Both are the room's failure, never a verdict.
        """
        self.counts.runs += 1
        ended = await self._attributed(run, talk)
        if ended.starved or (not self.jail.exact_cpu and counted_while_waiting(ended)):
            self.counts.starved += 1
            ended = await self._attributed(run, talk)
        return ended

    async def _attributed(self, run: Run, talk: MakeTalk) -> Ended:
        try:
            return await self._once(run, talk)
        except LaneBroken as error:
            self.counts.deaths += 1
            log.warning("a jail died with its program; trying once more: %s", error)
        try:
            return await self._once(run, talk, fresh=True)
        except LaneBroken as error:
            self.counts.deaths += 1
            await self._canary(error)
            missing = (Answer("missing", b"", 0.0),) * (
                len(run.calls) + len(run.beside) + (run.result is not None)
            )
            return Ended("crashed", f"it ended its jail twice: {error}", missing, 0.0, 0.0, None, "", "")

    async def _canary(self, death: LaneBroken) -> None:
        try:
            ended = await self._once(_CANARY)
        except LaneBroken as error:
            raise Broken(f"jails die with a harmless program too: {error}") from death
        if ended.how != "answered":
            raise Broken(f"a harmless program got no answer: {ended.how} {ended.detail}") from death

    async def _once(self, run: Run, talk: MakeTalk = no_talk, fresh: bool = False) -> Ended:
        """Run on one lane; raise LaneBroken when it dies, Unavailable when there is none to be had."""
        if self._closing:
            raise Unavailable("the sandbox is closing")
        turn = _Turn(run, fresh, asyncio.get_running_loop().create_future(), talk())
        turn.long = self._lengths.is_long(run)
        self._long_waiting += turn.long
        self._turns.append(turn)
        self._dispatch()
        if turn.lane is None and not fresh:
            self.ahead.want(run, turn.take)
        try:
            return await turn.done
        except asyncio.CancelledError:
            if turn.lane is not None:
                turn.lane.cancel()
            elif turn in self._turns:
                self._take(turn)
            raise

    def _dispatch(self) -> None:
        """Give turns to lanes as long as there are both."""
        while self._turns and self._busy < self.lanes:
            turn = self._next()
            lane = self._fit(turn)
            if lane is None:
                if self._lacking is None:
                    self._lacking = asyncio.get_running_loop().call_later(_NO_LANE_S, self._lack)
                return
            self._enough()
            self._take(turn)
            self._busy += 1
            self._long_at_work += turn.long
            turn.lane, turn.began = lane, time.monotonic()
            lane.begin(turn.run, partial(self._ended, turn, lane), turn.talk, turn.code)

    def _next(self) -> _Turn:
        """Return whose turn it is: who came first, or a run known to be long, where none is at work.

        So long ones are done beside the others rather than after them; they never have two lanes by that.
        """
        if self._long_waiting and not self._long_at_work and self.lanes > 1:
            return next(turn for turn in self._turns if turn.long)
        return self._turns[0]

    def _take(self, turn: _Turn) -> None:
        """Take a turn out of those that wait."""
        self._turns.remove(turn)
        self._long_waiting -= turn.long

    def _fit(self, turn: _Turn) -> Lane | None:
        while self._warm:
            lane = self._warm.pop()
            if not lane.broken and not (turn.fresh and lane.runs):
                return lane
            self._retire(lane)
        return None

    def _ended(self, turn: _Turn, lane: Lane, end: Ended | LaneBroken) -> None:
        self._busy -= 1
        self._long_at_work -= turn.long
        turn.lane = None
        seconds = time.monotonic() - turn.began
        self.took(seconds)
        self._lengths.took(turn.run, seconds)
        if lane.broken or lane.runs >= self.recycle_runs:
            self._retire(lane)
        else:
            self._warm.append(lane)
        self._dispatch()
        if turn.done.done():
            return
        if isinstance(end, LaneBroken):
            turn.done.set_exception(end)
        else:
            turn.done.set_result(end)

    def _lack(self) -> None:
        self._lacking = None
        self._give_up(f"no lane could be started: {self.sick}", retry_after_s=5)

    def _give_up(self, why: str, retry_after_s: float | None = None) -> None:
        """Tell all that wait for a lane that there will be none."""
        turns, self._turns, self._long_waiting = self._turns, deque(), 0
        for turn in turns:
            if not turn.done.done():
                turn.done.set_exception(Unavailable(why, retry_after_s=retry_after_s))

    def _enough(self) -> None:
        if self._lacking is not None:
            self._lacking.cancel()
            self._lacking = None

    def _retire(self, lane: Lane) -> None:
        """Close a lane and put a fresh one in its place, in the background."""
        if self._closing:
            return
        self.counts.recycled += 1
        task = asyncio.create_task(self._replace(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, lane: Lane) -> None:
        try:
            await lane.close()
        except Exception:
            log.exception("lane %d could not be cleared up", lane.number)
        self._all.discard(lane)
        attempt = 0
        while not self._closing:
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            try:
                await self._open(lane.number)
            except Exception as error:  # noqa: BLE001 - whatever it is, the lane is tried again
                attempt += 1
                self.sick = str(error) or type(error).__name__
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
        self._warm.append(lane)
        self._dispatch()
