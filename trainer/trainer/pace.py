"""How far a long piece of work is, how long the rest may take, and where an interrupted one stopped."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from shared.errors import NoAnswer

EVERY_S = 5.0


class Pace:
    """Count what is done of a whole, and say so with an estimate of the rest, at most every few seconds.

    what     of what, e.g. "student's messages"
    total    how many there are
    done     how many of them were done before this process began: they say nothing about its speed
    every_s  seconds between two lines; the first and the last line do not wait
    """

    def __init__(self, what: str, total: int, done: int = 0, every_s: float = EVERY_S) -> None:
        self.what, self.total, self.done, self.every_s = what, total, done, every_s
        self._first, self._began = done, time.monotonic()
        self._told = self._began - every_s

    def add(self, n: int = 1) -> None:
        """Count n more as done."""
        self.done += n
        now = time.monotonic()
        if self.done < self.total and now - self._told < self.every_s:
            return
        self._told = now
        print(f"  {self.what}: {self.done} of {self.total}{self.left()}", file=sys.stderr, flush=True)

    def left(self) -> str:
        """Return ", about 40 s left", or nothing if nothing is left or known."""
        return f", about {duration(rest)} left" if (rest := self.rest_s()) else ""

    def rest_s(self) -> float:
        """Return the seconds the rest may take, at the pace so far; 0 if nothing is left or known."""
        here = self.done - self._first
        if here <= 0 or self.done >= self.total:
            return 0.0
        return (time.monotonic() - self._began) / here * (self.total - self.done)


def duration(seconds: float) -> str:
    """Return a span of time as a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def with_notes(error: BaseException) -> str:
    """Return an error's text, and below it what was noted on its way out."""
    return "\n".join([str(error) or "interrupted", *getattr(error, "__notes__", ())])


@contextlib.contextmanager
def told_where(said: Callable[[], str]) -> Iterator[None]:
    """Add to a Ctrl-C or an outage where the work left off, and how to go on; `said` returns that."""
    try:
        yield
    except (KeyboardInterrupt, NoAnswer) as error:
        if text := said():
            error.add_note(text)
        raise
