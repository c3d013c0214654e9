"""Which uids the runs of each lane get. Only root can give them."""

from __future__ import annotations

import secrets
from pathlib import Path

_TRIES = 100
_LAST = 60_000  # below 65,536, the end of what a container's uid map usually holds


class Uids:
    """A range of uids cut into blocks, one per lane. A lane uses one twice before it is recycled only
    where programs that forked made it drop children that waited with theirs.

    The range starts at random, and where no process of this machine has a uid of it: a lane that is cleared
    up kills all that has a uid of its block, which must not be another service's. Two that start in the same
    moment may still meet; a run that is killed so is repeated.
    """

    def __init__(self, base: int, lanes: int, each: int) -> None:
        self.base, self.each = base, each
        room = max(1, (_LAST - base) - lanes * each)
        taken = _uids_in_use()
        for _ in range(_TRIES):
            self.first = base + secrets.randbelow(room)
            if not any(self.first <= uid < self.first + lanes * each for uid in taken):
                break

    def block(self, lane: int) -> tuple[int, int]:
        """Return the first uid of a lane and how many it has."""
        return self.first + lane * self.each, self.each

    def range(self, lane: int) -> range:
        """Return all uids of a lane."""
        return range(self.first + lane * self.each, self.first + (lane + 1) * self.each)


def _uids_in_use() -> set[int]:
    """Return the real uids of all processes that can be seen."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            with status.open("rb") as file:
                found.update(int(line.split()[1]) for line in file if line.startswith(b"Uid:"))
        except OSError:  # it has ended since
            continue
    return found
