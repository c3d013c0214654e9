"""A warm interpreter that forks one fresh child per run, watches it, and clears up after it. Stdlib only.

It forks each child before the request exists, carries bytes it never parses, and keeps none of them: the
copy buffer is zeroed after use. So there is nothing of one run in the memory of the next.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
from typing import Any

from sandbox_service.inside import candidate, feed, frames, harden, huge, limits, meter, nursery, sweep

# What programs of a page use. The rest is imported when it is wanted: each module loaded here makes every
# fork dearer, for its pages are mapped and unmapped with each child.
# Not threading, nor what imports it: its own clean-up after each fork touches a hundred pages of memory, a
# third of what a short run costs; a program that wants it imports it in a millisecond.
PRELOADED = (
    "abc", "array", "bisect", "cmath", "collections", "collections.abc", "contextlib", "copy", "datetime",
    "enum", "functools", "heapq", "io", "itertools", "json", "math", "operator", "os", "random", "re",
    "string", "struct", "sys", "time", "types", "typing", "warnings",
)  # fmt: skip
_QUICK_S = 0.02  # most runs end sooner: until then nothing is carried, which saves a wake-up per answer
_TICK_S = 0.01


class Zygote:
    """One warm interpreter: its descriptors, its setup, and the children that wait for the next requests."""

    def __init__(self, requests: int, replies: int, setup: dict[str, Any]) -> None:
        self.requests, self.replies, self.setup = requests, replies, setup
        self.carrier = Carrier(replies)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self.nursery = nursery.Nursery(setup, base64.b64decode(setup.get("child_seccomp", "")))
        self.children: int | None = setup.get("children_fd")
        self.uid: int | None = None
        self.feed: feed.Feed | None = None

    def serve(self) -> None:
        """Run one request after the other until the service closes the request pipe."""
        frames.write_all(self.replies, frames.REPLY.pack(frames.READY, bytes(16), 0))
        try:
            while self.one():
                pass
        finally:
            self.finish()

    def finish(self) -> None:
        """Kill and reap all there is, those that wait included, and empty the folders."""
        self.nursery.drop()
        sweep.kill_and_reap(sweep.NOTHING, self.uid, self.children)
        sweep.wipe(self.setup["writable"], self.uid)

    def one(self) -> bool:
        """Give the next request to a child that waits for it and watch it to its end. False: no more."""
        child = self.nursery.next()
        self.uid = child.uid
        try:
            nonce, length = self.head()
            cpu_s, wall_s, memory, output, file_bytes, processes, serves = frames.LIMITS.unpack(
                frames.read_exactly(self.requests, frames.LIMITS.size)
            )
            started = time.monotonic()
            header = candidate.HEADER.pack(cpu_s, memory, file_bytes, processes, serves, length)
            self.hand_over(child.request, header, length)
        except EOFError:
            return False
        watch = meter.Watch(child.pid, cpu_s, started + wall_s, memory, output, self.nursery.pids())
        self.carrier.nonce = nonce
        if serves:
            self.feed = feed.Feed(self.requests, child.request)
            self.attend(watch, child.outputs, self.feed)
            self.feed.close()
        else:
            os.close(child.request)
            if not watch.ends_within(_QUICK_S):
                self.attend(watch, child.outputs, None)
        clean, used = self.clear(watch.used)
        for kind, fd in child.outputs.items():
            while self.carrier.carry(kind, fd, watch) == frames.CHUNK:
                pass
            os.close(fd)
        clean = sweep.wipe(self.setup["writable"], child.uid) and clean
        wall_ms = (time.monotonic() - started) * 1e3
        end = frames.END.pack(
            watch.reason, watch.status, used.cpu_s * 1e3, wall_ms, watch.waited_ms, used.peak_kb, clean
        )
        self.carrier.flush(frames.REPLY.pack(frames.ENDED, nonce, len(end)) + end)
        return True

    def clear(self, used: sweep.Reaped) -> tuple[bool, sweep.Reaped]:
        """See to it that nothing of the run lives: (whether that is so, what it used in all)."""
        if self.nursery.undisturbed():
            return True, used
        self.nursery.drop()
        return sweep.kill_and_reap(used, self.uid, self.children)

    def head(self) -> tuple[bytes, int]:
        """Return the nonce and the body's length of the next request; pass over what a run left unread."""
        left, self.feed = 0 if self.feed is None else self.feed.left, None
        while True:
            while left:
                left -= len(frames.read_exactly(self.requests, min(left, frames.CHUNK)))
            kind, nonce, length = frames.HEAD.unpack(frames.read_exactly(self.requests, frames.HEAD.size))
            if kind == frames.REQUEST:
                return nonce, length
            left = length

    def hand_over(self, request: int, header: bytes, length: int) -> None:
        """Carry a body from the service to the child; a short one whole, so that the child wakes once."""
        parts: list[bytes | memoryview] = [header]
        while length:
            view = self.carrier.view[: min(length, frames.CHUNK)]
            count = os.readv(self.requests, [view])
            if not count:
                raise EOFError
            frames.write_all(request, *parts, view[:count])
            view[:count] = bytes(count)
            length -= count
            parts = []

    def attend(self, watch: meter.Watch, outputs: dict[bytes, int], asks: feed.Feed | None) -> None:
        """Carry what a longer run writes and hold it to its limits, until its first process is dead."""
        poll = select.poll()
        kinds = {fd: kind for kind, fd in outputs.items()}
        for fd in (*kinds, self.requests):
            poll.register(fd, select.POLLIN)
        try:
            while not watch.reap():
                for fd, _ in poll.poll(_TICK_S * 1e3):
                    if fd in kinds:
                        if not self.carrier.carry(kinds[fd], fd, watch):
                            poll.unregister(fd)
                    elif asks is None:  # the service went away, or speaks out of turn
                        raise EOFError
                    else:
                        asks.step(fd, poll)
                self.carrier.flush()
                watch.check()
        except EOFError:
            self.finish()
            os._exit(0)


class Carrier:
    """Carry chunks to the service from one buffer, which is zeroed as soon as it is sent."""

    def __init__(self, replies: int) -> None:
        self.replies, self.nonce = replies, bytes(16)
        self.view = memoryview(bytearray(4 * frames.CHUNK))
        self.filled = 0
        self.parts: list[bytes | memoryview] = []

    def carry(self, kind: bytes, fd: int, watch: meter.Watch) -> int:
        """Take one chunk from a pipe; return its size, 0 at the end of the stream, -1 for nothing now."""
        if self.filled + frames.CHUNK > len(self.view):
            self.flush()
        try:
            count = os.readv(fd, [self.view[self.filled : self.filled + frames.CHUNK]])
        except BlockingIOError:
            return -1
        if count and watch.carried(kind, count):
            chunk = self.view[self.filled : self.filled + count]
            self.parts += (frames.REPLY.pack(kind, self.nonce, count), chunk)
        self.filled += count
        return count

    def flush(self, *last: bytes) -> None:
        """Send what was taken, and `last` after it."""
        self.parts += last
        if self.parts:
            frames.write_all(self.replies, *self.parts)
            self.parts.clear()
        self.view[: self.filled] = bytes(self.filled)
        self.filled = 0


def main() -> None:
    """Warm up, take away what must not be inherited, and serve. Requests on fd 0, replies on fd 1."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):  # 2 stays: should a zygote fail, the service reads there what it said
        os.dup2(null, fd, inheritable=True)
    os.close(null)
    (length,) = frames.SETUP.unpack(frames.read_exactly(requests, frames.SETUP.size))
    setup: dict[str, Any] = json.loads(frames.read_exactly(requests, length))
    _preload()
    if harden.LINUX:
        with contextlib.suppress(OSError):  # it saves time, and nothing else
            huge.adopt()
        _take_away(setup)
    sys.path[:] = [path for path in sys.path if path not in ("", setup["room"])]
    sys.argv[:] = [""]
    candidate.prepare(str(setup["home"]))
    candidate.rehearse()
    limits.measure()
    gc.collect()
    gc.freeze()
    Zygote(requests, replies, setup).serve()


def _preload() -> None:
    """Import what programs use, and seed `random` once for all: its luck has to be the same in every run.

    It would seed itself anew after each fork, from the kernel, which costs a tenth of a short run.
    """
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in PRELOADED:
        __import__(name)
    os.register_at_fork = register
    sys.modules["random"].seed(0)


def _take_away(setup: dict[str, Any]) -> None:
    harden.not_dumpable()
    if os.getpid() != 1:
        harden.adopt_orphans()
        if setup.get("uid_first") is None:
            setup["children_fd"] = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
    os.environ.clear()
    os.environ.update(setup["environment"])
    landlock = setup.get("landlock")
    harden.no_new_privileges()
    if os.geteuid() == 0:
        harden.keep_capabilities(frozenset(setup["capabilities"]))
    if landlock:
        # Made here, entered by each child: the zygote still has to see its children's /proc to meter them.
        ruleset = harden.make_ruleset(landlock["readable"], landlock["writable"], landlock["devices"])
        setup["ruleset"] = ruleset
    if setup.get("seccomp"):
        harden.filter_system_calls(base64.b64decode(setup["seccomp"]))


if __name__ == "__main__":
    main()
