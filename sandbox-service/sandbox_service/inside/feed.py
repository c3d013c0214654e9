"""Carry what a test asks from the service to the child, never waiting for either. Stdlib only.

One chunk at a time through one buffer, which is zeroed as soon as it is passed on: what one run was asked is
not in the memory of the next.
"""

from __future__ import annotations

import contextlib
import os
import select

from sandbox_service.inside import frames


class Feed:
    """`requests` is the service's pipe (read), `child` the run's own (write); `left` is still to be read."""

    def __init__(self, requests: int, child: int) -> None:
        self.requests, self.child, self.left = requests, child, 0
        self.view = memoryview(bytearray(frames.CHUNK))
        self.start = self.end = 0
        os.set_blocking(child, False)

    def step(self, fd: int, poll: select.poll) -> None:
        """Do what `fd` is ready for. Raises EOFError when the service has gone or breaks the protocol."""
        if fd == self.requests and not self._take():
            return
        try:
            if self.child >= 0:
                self.start += os.write(self.child, self.view[self.start : self.end])
            else:
                self.start = self.end
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the program closed it; it will not be asked any more
            self.close(poll)
        if self.start == self.end:
            self.view[: self.end] = bytes(self.end)
            self.start = self.end = 0
            self._wait(poll, reading=True)
        else:
            self._wait(poll, reading=False)

    def _take(self) -> bool:
        """Read a chunk; False when there is nothing to pass on."""
        if not self.left:
            kind, _, self.left = frames.HEAD.unpack(frames.read_exactly(self.requests, frames.HEAD.size))
            if kind != frames.MORE:
                raise EOFError
            if not self.left:  # the test is over
                self.close()
                return False
        count = os.readv(self.requests, [self.view[: min(self.left, frames.CHUNK)]])
        if not count:
            raise EOFError
        self.left -= count
        self.start, self.end = 0, count
        return True

    def _wait(self, poll: select.poll, reading: bool) -> None:
        poll.modify(self.requests, select.POLLIN if reading else 0)
        if self.child >= 0:
            if reading:
                with contextlib.suppress(KeyError):
                    poll.unregister(self.child)
            else:
                poll.register(self.child, select.POLLOUT)

    def close(self, poll: select.poll | None = None) -> None:
        """Close the run's pipe: the program reads its end."""
        if self.child >= 0:
            if poll is not None:
                with contextlib.suppress(KeyError):
                    poll.unregister(self.child)
            os.close(self.child)
            self.child = -1
        self.view[: self.end] = bytes(self.end)
        self.start = self.end = 0
