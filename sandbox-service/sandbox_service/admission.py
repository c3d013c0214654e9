"""How much work may wait: jobs beyond the limit are refused at once, with a time that is worth waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.errors import Overloaded

_WEIGHT = 0.02
_WAIT_S = (1.0, 120.0)


class Admission:
    """Counts jobs from the door to the verdict, and knows how long one takes lately."""

    def __init__(self, limit: int, lanes: int) -> None:
        self.limit, self.lanes, self.jobs = limit, lanes, 0
        self.job_s = 0.01

    @property
    def queued_s(self) -> float:
        """Seconds of work that wait, as far as the last jobs tell."""
        return self.jobs * self.job_s / self.lanes

    @contextmanager
    def admit(self, count: int) -> Iterator[Callable[[], None]]:
        """Let `count` jobs in, or raise Overloaded. An idle service takes a request of any size.

        gives  what to call when one of them is done before the others, so that a client who does not read
               its verdicts holds nobody up
        """
        if self.jobs and self.jobs + count > self.limit:
            raise Overloaded(
                f"{self.jobs} jobs wait already; {count} more would pass the limit of {self.limit}",
                hint="repeat after Retry-After seconds, or raise SANDBOX_QUEUE_LIMIT",
                retry_after_s=min(max(self.queued_s, _WAIT_S[0]), _WAIT_S[1]),
            )
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
