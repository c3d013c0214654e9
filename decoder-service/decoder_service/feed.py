"""What waits to be decoded, between the event loop that adds and the model's thread that takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from decoder_service.engines.engine import Results, that_fit
from decoder_service.tickets import Job, batches
from shared.errors import RoomError
from shared.wire import Program

# How many full batches are sorted by length at a time, to find the oldest job some of about its own length.
_BATCHES_PER_ROUND = 8

JobResults = Sequence[tuple[Job, Program | RoomError | None]]


class Feed:
    """Jobs that wait, oldest first, and those the engine has. Every method may be called from any thread.

    told     called in the model's thread with jobs and their results
    joined   called there with how many rows run after some have joined
    paused   whether something else waits for the model: then nothing joins a running batch, and none follows
    """

    def __init__(
        self,
        max_batch: int,
        max_batch_tokens: int,
        told: Callable[[JobResults], None],
        joined: Callable[[int], None],
        paused: Callable[[], bool],
    ) -> None:
        self._max_batch, self._max_batch_tokens = max_batch, max_batch_tokens
        self._told, self._joined, self._paused = told, joined, paused
        self._lock = threading.Lock()
        self._waiting: dict[Job, None] = {}
        self._held: dict[Job, None] = {}
        self._has_given = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait."""
        with self._lock:
            self._waiting.update(dict.fromkeys(jobs))

    def drop(self, job: Job) -> bool:
        """Take a job out that has not begun; whether it had not."""
        with self._lock:
            return job in self._waiting and self._waiting.pop(job, None) is None

    def begin(self) -> None:
        """Begin a turn of the engine: it gets rows of it even where something else waits for the model."""
        self._has_given = False

    def join(self, rows: int, longest: int, most_tokens: int | None = None) -> list[Job]:
        """Return the oldest jobs that may join a batch of `rows` rows that can grow to `longest` tokens.

        most_tokens   a bound on rows x longest that is tighter than the settings' own
        """
        if not self._waiting or ((rows or self._has_given) and self._paused()):
            return []
        most = self._max_batch_tokens if most_tokens is None else min(most_tokens, self._max_batch_tokens)
        with self._lock:
            taken = that_fit(self._waiting, rows, longest, self._max_batch, most)
            self._take(taken, rows)
        return taken

    def batch(self) -> list[Job]:
        """Return the oldest job and others that decode alike, sorted by length; [] if nothing waits."""
        with self._lock:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return []
            alike = [job for job in self._waiting if job.decoding == oldest.decoding]
            sorted_ones = alike[: self._max_batch * _BATCHES_PER_ROUND]
            found = batches(sorted_ones, self._max_batch, self._max_batch_tokens)
            taken = next(batch for batch in found if oldest in batch)
            self._take(taken, 0)
        return taken

    def done(self, results: Results) -> None:
        """Give jobs back: a program, what they failed on, or None where nobody wanted them any more."""
        ended = []
        with self._lock:
            for job, result in results:
                assert isinstance(job, Job)
                self._held.pop(job, None)
                ended.append((job, result))
        self._told(ended)

    def fail(self, error: RoomError) -> None:
        """Give all that the engine has back with the same error."""
        self.done([(job, error) for job in list(self._held)])

    def _take(self, jobs: Sequence[Job], rows: int) -> None:
        if jobs:
            self._has_given = True
            self._joined(rows + len(jobs))
        for job in jobs:
            del self._waiting[job]
        self._held.update(dict.fromkeys(jobs))
