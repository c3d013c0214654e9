"""A warm interpreter that forks one fresh child per run, watches it, and clears up after it. Stdlib only.

It forks each child before the request exists, carries bytes it never parses, and keeps none of them: the
copy buffer is zeroed after use. So there is nothing of one run in the memory of the next.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import select
import signal
import sys
import time
from typing import Any

from sandbox_service.inside import candidate, frames, harden, meter, sweep

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
    """One warm interpreter: its descriptors, its setup, and the child that waits for the next request."""

    def __init__(self, requests: int, replies: int, setup: dict[str, Any]) -> None:
        self.requests, self.replies, self.setup = requests, replies, setup
        self.carrier = Carrier(replies)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self.lonely = base64.b64decode(setup.get("child_seccomp", ""))
        self.children: int | None = setup.get("children_fd")
        self.count = 0

    def serve(self) -> None:
        """Run one request after the other until the service closes the request pipe."""
        frames.write_all(self.replies, frames.REPLY.pack(frames.READY, bytes(16), 0))
        try:
            while self.one():
                pass
        finally:
            self.finish()

    def finish(self) -> None:
        sweep.kill_and_reap(sweep.NOTHING, self.uid(), self.children)
        sweep.wipe(self.setup["writable"], self.uid())

    def uid(self) -> int | None:
        """The uid of the run in hand: a new one each time, where this zygote may give uids."""
        first = self.setup.get("uid_first")
        return None if first is None else int(first) + self.count % int(self.setup["uid_count"])

    def fork(self) -> tuple[int, int, dict[bytes, int]]:
        """Fork the child that waits for the next request; return pid, its request pipe, and its outputs."""
        pairs = [os.pipe() for _ in range(4)]
        pid = os.fork()
        if pid == 0:
            pipes = candidate.Pipes(pairs[0][0], pairs[1][1], pairs[2][1], pairs[3][1])
            candidate.run(pipes, self.confined())
        os.close(pairs[0][0])
        for _, write in pairs[1:]:
            os.close(write)
        for read, _ in pairs[1:]:
            os.set_blocking(read, False)
        outputs = {frames.ANSWERS: pairs[1][0], frames.STDOUT: pairs[2][0], frames.STDERR: pairs[3][0]}
        return pid, pairs[0][1], outputs

    def confined(self) -> candidate.Confined:
        """What the next child is to become."""
        uid = self.uid()
        home = str(self.setup["home"]).format(uid=uid)
        return candidate.Confined(uid, home, self.setup["counted"], self.setup.get("ruleset"), self.lonely)

    def one(self) -> bool:
        """Fork a child, give it the next request, watch it to its end. False: there will be no more."""
        self.count += 1
        pid, request, outputs = self.fork()
        try:
            head = frames.read_exactly(self.requests, frames.REQUEST.size)
            nonce, cpu_s, wall_s, memory, output, file_bytes, processes, length = frames.REQUEST.unpack(head)
            started = time.monotonic()
            self.hand_over(
                request, candidate.HEADER.pack(cpu_s, memory, file_bytes, processes, length), length
            )
        except EOFError:
            return False
        watch = meter.Watch(pid, cpu_s, started + wall_s, memory, output)
        self.carrier.nonce = nonce
        if not watch.ends_within(_QUICK_S):
            self.attend(watch, outputs)
        clean, used = sweep.kill_and_reap(watch.used, self.uid(), self.children)
        for kind, fd in outputs.items():
            while self.carrier.carry(kind, fd, watch) == frames.CHUNK:
                pass
            os.close(fd)
        clean = sweep.wipe(self.setup["writable"], self.uid()) and clean
        wall_ms = (time.monotonic() - started) * 1e3
        end = frames.END.pack(
            watch.reason, watch.status, used.cpu_s * 1e3, wall_ms, watch.waited_ms, used.peak_kb, clean
        )
        self.carrier.flush(frames.REPLY.pack(frames.ENDED, nonce, len(end)) + end)
        return True

    def hand_over(self, request: int, header: bytes, length: int) -> None:
        """Carry a body from the service to the child."""
        try:
            frames.write_all(request, header)
            while length:
                view = self.carrier.view[: min(length, frames.CHUNK)]
                count = os.readv(self.requests, [view])
                if not count:
                    raise EOFError
                frames.write_all(request, view[:count])
                view[:count] = bytes(count)
                length -= count
        finally:
            os.close(request)

    def attend(self, watch: meter.Watch, outputs: dict[bytes, int]) -> None:
        """Carry what a longer run writes and hold it to its limits, until its first process is dead."""
        poll = select.poll()
        kinds = {fd: kind for kind, fd in outputs.items()}
        for fd in (*kinds, self.requests):
            poll.register(fd, select.POLLIN)
        while not watch.reap():
            for fd, _ in poll.poll(_TICK_S * 1e3):
                if fd == self.requests:  # the service went away, or speaks out of turn
                    self.finish()
                    os._exit(0)
                if not self.carrier.carry(kinds[fd], fd, watch):
                    poll.unregister(fd)
            self.carrier.flush()
            watch.check()


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
    for name in PRELOADED:
        __import__(name)
    if harden.LINUX:
        _take_away(setup)
    sys.path[:] = [path for path in sys.path if path not in ("", setup["room"])]
    sys.argv[:] = [""]
    candidate.rehearse()
    candidate.measure()
    gc.collect()
    gc.freeze()
    Zygote(requests, replies, setup).serve()


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
