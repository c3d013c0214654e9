"""Which uids the runs of each lane get. Only root can give them."""

from __future__ import annotations

import secrets

_LAST = 60_000  # below 65,536, the end of what a container's uid map usually holds


class Uids:
    """A range of uids cut into blocks, one per lane. A lane uses one twice before it is recycled only
    where programs that forked made it drop children that waited with theirs.

    The blocks start at random, so that two services on one machine hardly ever hold the same uid at the
    same moment; where they do, one run may end the other's, and it is repeated on another lane.
    """

    def __init__(self, base: int, lanes: int, each: int) -> None:
        self.base, self.each = base, each
        room = max(1, (_LAST - base) - lanes * each)
        self.first = base + secrets.randbelow(room)

    def block(self, lane: int) -> tuple[int, int]:
        """Return the first uid of a lane and how many it has."""
        return self.first + lane * self.each, self.each

    def range(self, lane: int) -> range:
        """Return all uids of a lane."""
        return range(self.first + lane * self.each, self.first + (lane + 1) * self.each)
