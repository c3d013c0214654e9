"""One queue in front of one model: requests share its batch, equal messages a decoding.

All bookkeeping is on the event loop; the model runs in one thread of its own and takes from the feed. A
message nobody waits for any more is dropped, before it is run or while.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from decoder_service.cache import ProgramCache, open_cache
from decoder_service.engines.engine import Abandoned, Decoding, Engine, EngineLost, Row, Work
from decoder_service.feed import Feed, JobResults
from decoder_service.keys import Key, key_for
from decoder_service.metrics import Metrics
from decoder_service.refusals import broken, check_context, overloaded, stopped
from decoder_service.settings import DecoderSettings
from decoder_service.tickets import Job, Ticket
from shared.errors import RoomError, Unavailable
from shared.wire import DecodeRequest, Program

log = logging.getLogger(__name__)

R = TypeVar("R")

# One transaction for what ends together.
_KEPT_AFTER_S = 0.1
_WARM_UP = DecodeRequest(messages=["def double ( x ) : return x * 2"], max_new_tokens=2)


class Batcher:
    """Owns the engine, the queue and the cache. `start` loads, `close` lets go.

    load   makes the engine, in the model's thread
    lost   called when the engine says that it cannot go on
    """

    def __init__(
        self,
        settings: DecoderSettings,
        load: Callable[[], Engine],
        metrics: Metrics,
        lost: Callable[[EngineLost], None],
    ) -> None:
        self._settings, self._load, self._metrics, self._lost = settings, load, metrics, lost
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._jobs: dict[Key, Job] = {}
        self._tokens = 0
        self._alone = 0
        self._arrived, self._noted = asyncio.Event(), asyncio.Event()
        self._feed = Feed(
            settings.max_batch,
            settings.max_batch_tokens,
            told=self._told,
            joined=metrics.rows.observe,
            paused=lambda: self._alone > 0,
        )
        self._closing = threading.Event()
        self._cache = ProgramCache(0)
        self._seconds_per_token = 1e-4
        self._engine: Engine | None = None
        self._mark = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        metrics.watch_queue(lambda: float(self._waiting), lambda: float(self._tokens))

    @property
    def ready(self) -> bool:
        """Whether the engine is loaded and has decoded its first message."""
        return bool(self._tasks)

    @property
    def engine(self) -> Engine:
        """Return the engine.

        raises   Unavailable until it is ready
        """
        if self._engine is None or not self.ready:
            raise Unavailable("the model is still being loaded", hint="wait for /readyz", retry_after_s=1)
        return self._engine

    async def start(self) -> None:
        """Load the engine in the model's thread, decode once, and begin to work.

        raises   whatever loading or the first decoding raises
        """
        loop = self._loop = asyncio.get_running_loop()
        started = time.perf_counter()
        engine = await loop.run_in_executor(self._executor, self._load)
        decoding = Decoding(_WARM_UP.max_new_tokens)
        rows = [Row(_WARM_UP.messages[0], engine.prepare(_WARM_UP.messages)[0], 0)]
        for found in await loop.run_in_executor(self._executor, engine.decode, rows, decoding):
            if isinstance(found, RoomError):
                raise found
        self._cache = await asyncio.to_thread(open_cache, self._settings, engine.card())
        self._engine = engine
        self._metrics.watch_memory(engine.memory)
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._keep())]
        card = engine.card()
        told = card.model_dump(include={"name", "device", "dtype", "quantization", "parameters"})
        told |= {"model": told.pop("name"), "load_s": round(time.perf_counter() - started, 2)}
        log.info("ready", extra=told)

    @property
    def _waiting(self) -> int:
        return len(self._jobs) + self._alone

    async def close(self) -> None:
        """Refuse what still waits, and let the model's thread end after its step."""
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in list(self._jobs.values()):
            self._feed.drop(job)
            self._finish(job, stopped())
        self._executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._cache.close)
        if self._engine is not None:
            self._engine.close()

    async def admit(self, request: DecodeRequest) -> Ticket:
        """Queue a request's messages; equal ones, and those decoded before, are not queued again.

        The caller gives the ticket back through `waiting_for`.

        raises   Unavailable before the engine is ready, Overloaded when the queue is full,
                 InvalidRequest when a prompt leaves no room for max_new_tokens
        """
        engine = self.engine
        self._check_room(1, 0)
        decoding = Decoding(request.max_new_tokens, request.temperature, request.top_p)
        keys = [key_for(message, decoding, request.seed) for message in request.messages]
        unknown = {key.message: None for key in keys if not self._cache.get(key) and key not in self._jobs}
        prompts: dict[str, tuple[int, ...]] = {}
        if unknown:
            prepared = await asyncio.to_thread(engine.prepare, list(unknown))
            prompts = dict(zip(unknown, prepared, strict=True))
        check_context(request, prompts, engine.context_tokens)
        return self._ticket(keys, prompts)

    async def alone(self, work: Work[R]) -> R:
        """Run one piece of work in the model's thread, between batches.

        Cancelling it takes it out of the queue, or stops it before its next pass.
        raises   Overloaded when the queue is full, and whatever the work raises
        """
        self._check_room(1, work.tokens)
        gone = threading.Event()

        def go_on() -> None:
            if self._closing.is_set():
                raise stopped()
            if gone.is_set():
                raise Abandoned

        self._alone += 1
        self._tokens += work.tokens
        started = time.perf_counter()
        future = self._executor.submit(work.run, go_on)
        try:
            return await asyncio.wrap_future(future)
        except RoomError as error:
            if isinstance(error, EngineLost):
                self._lost(error)
            raise
        except asyncio.CancelledError:
            if self._closing.is_set():
                raise stopped() from None
            raise
        except Exception as error:
            # The edge of the model's thread: its bug must reach the one who waits.
            log.exception("work failed", extra={"tokens": work.tokens})
            raise broken(error) from error
        finally:
            gone.set()
            self._alone -= 1
            self._tokens -= work.tokens
            self._metrics.alone(work.tokens, time.perf_counter() - started)

    def _ticket(self, keys: Sequence[Key], prompts: dict[str, tuple[int, ...]]) -> Ticket:
        """Turn keys into places without waiting in between, so that the bounds hold."""
        places: list[Program | tuple[Job, bool]] = []
        fresh: dict[Key, Job] = {}
        loop = asyncio.get_running_loop()
        for key in keys:
            if program := self._cache.get(key):
                places.append(program)
            elif job := self._jobs.get(key) or fresh.get(key):
                places.append((job, True))
            else:
                # Unless another request's job was dropped while this one was being tokenized, it is there.
                ids = prompts.get(key.message) or self.engine.prepare([key.message])[0]
                row = Row(key.message, ids, key.seed)
                job = Job(key, row, len(ids) + key.decoding.max_new_tokens, loop.create_future())
                fresh[key] = job
                places.append((job, False))
        self._check_room(len(fresh), sum(job.tokens for job in fresh.values()))
        self._jobs.update(fresh)
        self._tokens += sum(job.tokens for job in fresh.values())
        self._metrics.not_generated.inc(len(keys) - len(fresh))
        ticket = Ticket(places, {place[0] for place in places if not isinstance(place, Program)})
        for job in ticket.jobs:
            job.waiters += 1
        self._feed.add(list(fresh.values()))
        if fresh:
            self._arrived.set()
        return ticket

    @contextmanager
    def waiting_for(self, ticket: Ticket) -> Iterator[Ticket]:
        """Give a ticket back in the end: jobs nobody else waits for are dropped, also while they run."""
        try:
            yield ticket
        finally:
            for job in ticket.jobs:
                job.waiters -= 1
                if not job.waiters and self._feed.drop(job):
                    self._forget(job)
                    job.done.cancel()

    def _check_room(self, messages: int, tokens: int) -> None:
        """Raise Overloaded if the queue is full; an empty queue takes any request."""
        settings = self._settings
        if not self._waiting or not messages:
            return
        if (
            self._waiting + messages <= settings.queue_messages
            and self._tokens + tokens <= settings.queue_tokens
        ):
            return
        raise overloaded(settings, self._waiting, self._tokens, messages, tokens, self._seconds_per_token)

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
            self._tokens -= job.tokens

    def _finish(self, job: Job, result: Program | RoomError | None) -> None:
        if result is None and job.waiters and not self._closing.is_set():
            # Somebody asked for it again after it was let go: it takes another turn.
            self._feed.add([job])
            self._arrived.set()
            return
        self._forget(job)
        if job.done.done():
            return
        if isinstance(result, Program):
            self._cache.put(job.key, result)
            job.done.set_result(result)
        elif result is None:
            job.done.cancel()
        else:
            job.done.set_exception(result)
            job.done.exception()  # seen: whoever waited may be gone

    def _told(self, results: JobResults) -> None:
        """Pass results on to the event loop, from the model's thread."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        per_token = seconds / max(1, sum(job.tokens for job, _ in results))
        # What ends together in one step says little; the mean over many ends says how fast the queue moves.
        self._seconds_per_token += 0.05 * (per_token - self._seconds_per_token)
        with suppress(RuntimeError):  # the loop has ended, and with it all who waited
            self._loop.call_soon_threadsafe(self._take_back, results)

    def _take_back(self, results: JobResults) -> None:
        self._metrics.ended([result for _, result in results])
        for job, result in results:
            self._finish(job, result)
        if self._cache.is_kept:
            self._noted.set()

    async def _work(self) -> None:
        """Let the engine work whenever something waits, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            if not self._feed:
                await self._arrived.wait()
            if len(self._feed) < self._settings.max_batch:
                await asyncio.sleep(self._settings.max_wait_ms / 1000)
            await loop.run_in_executor(self._executor, self._worked)

    def _worked(self) -> None:
        """Work off the feed, in the model's thread."""
        self._mark = time.perf_counter()
        self._feed.begin()
        try:
            self.engine.work(self._feed)
        except RoomError as error:
            self._feed.fail(error)
            if isinstance(error, EngineLost):
                self._loop.call_soon_threadsafe(self._lost, error)
        except Exception as error:
            # The edge of the model's thread: its bug must reach those who wait, and end nobody else's.
            log.exception("decoding failed")
            self._feed.fail(broken(error))

    async def _keep(self) -> None:
        """Write what the cache noted to disk, a moment later, for ever."""
        while True:
            await self._noted.wait()
            await asyncio.sleep(_KEPT_AFTER_S)
            self._noted.clear()
            await asyncio.to_thread(self._cache.flush)
