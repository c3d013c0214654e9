"""What a request waits for, and how what waits is put into batches. Knows no engine and no queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from decoder_service.engines.engine import Decoding, Row
from decoder_service.keys import Key
from shared.wire import Program


@dataclass(eq=False)
class Job:
    """One message to be decoded, for everyone who waits for it. `tokens` is what it can grow to."""

    key: Key
    row: Row
    tokens: int
    done: asyncio.Future[Program]
    waiters: int = 0

    @property
    def decoding(self) -> Decoding:
        """How its program is generated."""
        return self.key.decoding

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return self.waiters > 0


@dataclass(eq=False)
class Ticket:
    """What one request waits for: per message its program, or the job and whether another one began it."""

    places: list[Program | tuple[Job, bool]]
    jobs: set[Job] = field(default_factory=set)

    async def programs(self) -> list[Program]:
        """Return all programs in the order of the messages, or raise the first failure."""
        found: list[Program | None] = [None] * len(self.places)
        async for index, program in self.finished():
            found[index] = program
        return [program for program in found if program is not None]

    async def finished(self) -> AsyncIterator[tuple[int, Program]]:
        """Yield (index, program) as they come, or raise the first failure."""
        by_future: dict[asyncio.Future[Program], list[tuple[int, bool]]] = {}
        for index, place in enumerate(self.places):
            if isinstance(place, Program):
                yield index, place
            else:
                by_future.setdefault(place[0].done, []).append((index, place[1]))
        waiting = set(by_future)
        while waiting:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in ended:
                program = future.result()
                for index, shared in by_future[future]:
                    yield index, program.model_copy(update={"cached": True}) if shared else program


def batches(jobs: Sequence[Job], max_batch: int, max_batch_tokens: int) -> Iterator[list[Job]]:
    """Split jobs, shortest prompt first, into batches within both limits; one job alone is always a batch.

    max_batch_tokens   rows x the longest row's prompt and program
    """
    batch: list[Job] = []
    for job in sorted(jobs, key=lambda job: job.tokens):
        if batch and (len(batch) == max_batch or (len(batch) + 1) * job.tokens > max_batch_tokens):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch
