"""The children that wait for a request, and the proof that a run started nothing. Stdlib only.

A fork write-protects the zygote's memory, and each page the zygote then writes to costs a fault: as much as
all else it does for a short run. So several children are forked back to back, where each may have a uid of
its own: with one uid for all, a run could end those that wait beside it.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, NamedTuple

from sandbox_service.inside import candidate, frames, harden


class Child(NamedTuple):
    """A child that waits: its uid, its request pipe (write), and its outputs by kind (read)."""

    pid: int
    uid: int | None
    request: int
    outputs: dict[bytes, int]


class Nursery:
    """Forks `setup["waiting"]` children at a time (1 if it is not there) and gives them out one by one."""

    def __init__(self, setup: dict[str, Any], lonely: bytes) -> None:
        self.setup, self.lonely, self.count = setup, lonely, 0
        self.waiting: deque[Child] = deque()
        self.batch = int(setup.get("waiting", 1))
        self.loadavg = os.open("/proc/loadavg", os.O_RDONLY) if self.batch > 1 else -1

    def next(self) -> Child:
        """Return a child that was forked before its request is read."""
        if not self.waiting:
            self._fill()
        return self.waiting.popleft()

    def _fill(self) -> None:
        """Fork a batch; between two forks there is next to nothing, for it would be paid in faults."""
        plans = [self._plan() for _ in range(self.batch)]
        pids, fork, run = [], os.fork, candidate.run
        for pipes, confined, _ in plans:
            pid = fork()
            if pid == 0:
                run(pipes, confined)
            pids.append(pid)
        for pid, (pipes, confined, (request, answers, stdout, stderr)) in zip(pids, plans, strict=True):
            for fd in pipes:
                os.close(fd)
            outputs = {frames.ANSWERS: answers, frames.STDOUT: stdout, frames.STDERR: stderr}
            self.waiting.append(Child(pid, confined.uid, request, outputs))

    def _plan(self) -> tuple[candidate.Pipes, candidate.Confined, tuple[int, ...]]:
        """The next child's ends of its pipes, what it is to become, and this side's ends."""
        self.count += 1
        first, own = self.setup.get("uid_first"), os.getpid()
        uid = None if first is None else int(first) + self.count % int(self.setup["uid_count"])
        home = str(self.setup["home"])
        confined = candidate.Confined(
            uid=uid,
            home=home.format(uid=uid) if candidate.OWN in home else "",
            parent=own if harden.LINUX and own != 1 else 0,
            counted=self.setup["counted"],
            ruleset=self.setup.get("ruleset"),
            lonely=self.lonely,
        )
        theirs, request = os.pipe()
        outputs = [os.pipe() for _ in range(3)]
        for read, _ in outputs:
            os.set_blocking(read, False)
        pipes = candidate.Pipes(theirs, *(write for _, write in outputs))
        return pipes, confined, (request, *(read for read, _ in outputs))

    def undisturbed(self) -> bool:
        """Whether nothing was started in this process namespace since the last child was forked.

        The newest pid is still the last waiting child's, which lives; so it cannot have been given again,
        and a run that is over and never forked has left nothing behind.
        """
        if not self.waiting:
            return False
        return int(os.pread(self.loadavg, 128, 0).rsplit(None, 1)[1]) == self.waiting[-1].pid

    def pids(self) -> frozenset[str]:
        """Those that wait, as /proc names them."""
        return frozenset(str(child.pid) for child in self.waiting)

    def drop(self) -> None:
        """Forget those that wait: what follows kills all there is."""
        while self.waiting:
            child = self.waiting.popleft()
            for fd in (child.request, *child.outputs.values()):
                os.close(fd)
