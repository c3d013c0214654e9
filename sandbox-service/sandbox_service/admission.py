"""How much work may wait: jobs beyond the limit are refused at once, with a time that is worth waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import Overloaded

_WEIGHT = 0.02
_NEARLY = 0.9
_WAIT_S = (1.0, 120.0)


class Admission:
    """Counts jobs from the door to the verdict, and knows how long one takes lately.

    limit   jobs that may wait
    most_s  seconds of work that may wait, as far as the last jobs tell
    """

    def __init__(self, limit: int, lanes: int, most_s: float) -> None:
        self.limit, self.lanes, self.most_s, self.jobs = limit, lanes, most_s, 0
        self.job_s = 0.01

    @property
    def queued_s(self) -> float:
        """Seconds of work that wait, as far as the last jobs tell."""
        return self.jobs * self.job_s / self.lanes

    def ensure_open(self) -> None:
        """Raise Overloaded where nine tenths of the queue are taken: asked before a request is even read, so
        that refusing costs next to nothing."""
        if self.jobs:
            self._ensure(self.jobs / _NEARLY, "a request")

    def ensure_room(self, count: int) -> None:
        """Raise Overloaded where `count` jobs more are too many. An idle service takes any request."""
        if self.jobs:
            self._ensure(self.jobs + count, f"{count} more")

    def _ensure(self, jobs: float, more: str) -> None:
        name, most = "", ""
        if jobs > self.limit:
            name, most = "SANDBOX_QUEUE_LIMIT", f"{self.limit} jobs"
        elif jobs * self.job_s / self.lanes > self.most_s:
            name, most = "SANDBOX_QUEUE_SECONDS", f"{self.most_s:g} s of work"
        if name:
            raise Overloaded(
                f"{self.jobs} jobs, about {self.queued_s:.1f} s of work, wait already; with {more} there "
                f"would be more than {most}",
                hint=f"repeat after Retry-After seconds, or raise {name}",
                retry_after_s=min(max(self.queued_s, _WAIT_S[0]), _WAIT_S[1]),
            )

    @contextmanager
    def admit(self, count: int) -> Iterator[Callable[[], None]]:
        """Let `count` jobs in, or raise Overloaded.

        gives  what to call when one of them is done before the others, so that a client who does not read
               its verdicts holds nobody up
        """
        self.ensure_room(count)
        self.jobs += count
        left = count

        def done() -> None:
            nonlocal left
            left -= 1
            self.jobs -= 1

        try:
            yield done
        finally:
            self.jobs -= left

    def took(self, seconds: float) -> None:
        """Note how long a job had its lane."""
        self.job_s += _WEIGHT * (seconds - self.job_s)
