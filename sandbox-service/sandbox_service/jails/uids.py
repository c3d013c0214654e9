"""Which uids the runs of each lane get. Only root can give them."""

from __future__ import annotations

import os
import secrets
import socket
import weakref
from collections.abc import Sequence
from pathlib import Path

_TRIES = 100
_CELL = 500  # uids that are claimed together
_LAST = 60_000  # below 65,536, the end of what a container's uid map usually holds


class Uids:
    """A range of uids cut into blocks, one per lane. A lane uses one twice before it is recycled only
    where programs that forked made it drop children that waited with theirs.

    The range starts at random where no process of this machine has a uid of it and no other service has
    claimed it: a lane that is cleared up kills all that has a uid of its block, which must not be another
    service's. Where all is claimed, or nothing can be, two services may still meet; a run that is killed so
    is repeated once.
    """

    def __init__(self, base: int, lanes: int, each: int) -> None:
        self.base, self.each = base, each
        first, last = -(-base // _CELL), (_LAST - lanes * each) // _CELL
        taken = _uids_in_use()
        self.first = _CELL * first
        for _ in range(_TRIES):
            start = _CELL * (first + secrets.randbelow(max(1, last - first)))
            mine = range(start, start + lanes * each)
            if any(uid in mine for uid in taken):
                continue
            self.first = start
            if claims := _claimed(mine):
                weakref.finalize(self, _close, claims)
                break

    def block(self, lane: int) -> tuple[int, int]:
        """Return the first uid of a lane and how many it has."""
        return self.first + lane * self.each, self.each

    def range(self, lane: int) -> range:
        """Return all uids of a lane."""
        return range(self.first + lane * self.each, self.first + (lane + 1) * self.each)


def _claimed(uids: range) -> Sequence[int]:
    """Claim uids until this process ends; return the sockets that hold them.

    None if somebody else has some of them, or this process can have no more sockets.

    A name without a file is free again as soon as the last process that holds it has ended, however it ends.
    """
    held: list[int] = []
    for cell in range(uids.start // _CELL, uids[-1] // _CELL + 1):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.bind(f"\0psuedoptimal-sandbox-uids-{cell}")
                held.append(end.detach())
        except OSError:
            _close(held)
            return ()
    return held


def _close(held: Sequence[int]) -> None:
    for fd in held:
        os.close(fd)


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
