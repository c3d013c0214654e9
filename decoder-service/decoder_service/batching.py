"""One queue in front of one model: requests that arrive together share batches, equal messages a decoding.

All bookkeeping is on the event loop; the model runs in one thread of its own. A message nobody waits
for any more is dropped, before it is run or while.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from decoder_service.cache import ProgramCache, open_cache
from decoder_service.engines.engine import Abandoned, Decoding, Engine, EngineLost, Row, Work
from decoder_service.keys import Key, key_for
from decoder_service.metrics import Metrics
from decoder_service.refusals import broken, check_context, overloaded, stopped
from decoder_service.settings import DecoderSettings
from decoder_service.tickets import Job, Ticket, batches
from shared.errors import RoomError, Unavailable
from shared.wire import DecodeRequest, Program

log = logging.getLogger(__name__)

R = TypeVar("R")

# How many full batches are sorted by length at a time; more would let long prompts wait for too long.
_BATCHES_PER_ROUND = 8
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
        self._arrived = asyncio.Event()
        self._closing = threading.Event()
        self._cache = ProgramCache(0)
        self._seconds_per_token = 1e-4
        self._engine: Engine | None = None
        self._task: asyncio.Task[None] | None = None
        metrics.watch_queue(lambda: float(self._waiting), lambda: float(self._tokens))

    @property
    def ready(self) -> bool:
        """Whether the engine is loaded and has decoded its first message."""
        return self._task is not None

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
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        engine = await loop.run_in_executor(self._executor, self._load)
        decoding = Decoding(_WARM_UP.max_new_tokens)
        rows = [Row(_WARM_UP.messages[0], engine.prepare(_WARM_UP.messages)[0], 0)]
        for found in await loop.run_in_executor(self._executor, engine.decode, rows, decoding):
            if isinstance(found, RoomError):
                raise found
        self._cache = await asyncio.to_thread(open_cache, self._settings, engine.card())
        self._engine = engine
        self._task = asyncio.create_task(self._work())
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
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job in list(self._jobs.values()):
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
        if fresh:
            self._arrived.set()
        ticket = Ticket(places, {place[0] for place in places if not isinstance(place, Program)})
        for job in ticket.jobs:
            job.waiters += 1
        return ticket

    @contextmanager
    def waiting_for(self, ticket: Ticket) -> Iterator[Ticket]:
        """Give a ticket back in the end: jobs nobody else waits for are dropped, also while they run."""
        try:
            yield ticket
        finally:
            for job in ticket.jobs:
                job.waiters -= 1
                if not job.waiters and not job.running and not job.done.done():
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
        if result is None and job.waiters:
            # Somebody asked for it again after it was let go: it takes another turn.
            job.running = False
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

    async def _work(self) -> None:
        """Run rounds for ever: the oldest job's decoding, its like sorted by length, batch by batch."""
        while True:
            self._arrived.clear()
            if not self._jobs:
                await self._arrived.wait()
            if len(self._jobs) < self._settings.max_batch:
                await asyncio.sleep(self._settings.max_wait_ms / 1000)
            jobs = list(self._jobs.values())
            alike = [job for job in jobs if job.key.decoding == jobs[0].key.decoding]
            taken = alike[: self._settings.max_batch * _BATCHES_PER_ROUND]
            for batch in batches(taken, self._settings.max_batch, self._settings.max_batch_tokens):
                await self._run([job for job in batch if job.waiters])
            if self._cache.is_kept:
                await asyncio.to_thread(self._cache.flush)

    async def _run(self, batch: Sequence[Job]) -> None:
        if not batch:
            return
        for job in batch:
            job.running = True
        decoding = batch[0].key.decoding
        started = time.perf_counter()

        def wanted(row: int) -> bool:
            return batch[row].waiters > 0 and not self._closing.is_set()

        results: Sequence[Program | RoomError | None]
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._executor, self.engine.decode, [job.row for job in batch], decoding, wanted
            )
        except RoomError as error:
            results = [error] * len(batch)
            if isinstance(error, EngineLost):
                self._lost(error)
        except Exception as error:
            # The edge of the model's thread: its bug must reach those who wait, and end nobody else's.
            log.exception("decoding failed", extra={"rows": len(batch)})
            results = [broken(error)] * len(batch)
        seconds = time.perf_counter() - started
        per_token = seconds / sum(job.tokens for job in batch)
        self._seconds_per_token += 0.2 * (per_token - self._seconds_per_token)
        self._metrics.batch(results, seconds)
        for job, result in zip(batch, results, strict=True):
            self._finish(job, result)
