"""Hold one run to its limits from outside its process: CPU, wall, memory of all its processes, output."""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from sandbox_service.inside import frames, sweep

_TICKS = os.sysconf("SC_CLK_TCK")


class Use(NamedTuple):
    """What living processes use now."""

    cpu_s: float
    anonymous_kb: int


class Watch:
    """One run: what it may use, what it has used, and how it ended.

    others  processes of this namespace that are not the run's, as /proc names them
    """

    def __init__(
        self, pid: int, cpu_s: float, deadline: float, memory: int, output: int, others: frozenset[str]
    ) -> None:
        self.pid, self.cpu_s, self.deadline, self.memory, self.output = pid, cpu_s, deadline, memory, output
        self.others = others
        self.used, self.status, self.reason, self.waited_ms = sweep.NOTHING, 0, frames.EXIT, -1.0
        self.answers, self.alive = frames.ANSWERS_MAX, True
        self._next_look = time.monotonic() + 0.1

    def ends_within(self, seconds: float) -> bool:
        """Wait for the child's end, without looking at anything else; SIGCHLD must be blocked."""
        end = time.monotonic() + seconds
        while not self.reap():
            left = end - time.monotonic()
            if left <= 0:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, left)
        return True

    def reap(self) -> bool:
        """Reap the dead; True when the child itself is among them."""
        while True:
            found = sweep.reap_one(self.used)
            if found is None:
                self.alive = False
                return True
            pid, status, self.used = found
            if pid == self.pid:
                self.status, self.alive = status, False
                self._judge_signal()
                return True
            if not pid:
                return False

    def _judge_signal(self) -> None:
        """A SIGKILL that this side did not send is the kernel's: for CPU time, else for memory."""
        if self.reason == frames.EXIT and os.WIFSIGNALED(self.status):
            signal_number = os.WTERMSIG(self.status)
            if signal_number in (signal.SIGKILL, signal.SIGXCPU) and self.used.cpu_s >= 0.9 * self.cpu_s:
                self.reason = frames.CPU

    def carried(self, kind: bytes, count: int) -> bool:
        """Count output; False when this chunk is over the limit, and then the run is over."""
        if kind == frames.ANSWERS:
            self.answers -= count
            within = self.answers >= 0
        else:
            self.output -= count
            within = self.output >= 0
        if not within:
            self.kill(frames.OUTPUT)
        return within

    def check(self) -> None:
        """Kill the child when a limit is passed; /proc is looked at every tenth of a second at most."""
        now = time.monotonic()
        if now >= self.deadline:
            self.waited_ms = _waited_ms(self.pid)
            self.kill(frames.WALL)
        elif now >= self._next_look:
            self._next_look = now + 0.1
            now_used = _of_all(self.pid, self.others)
            if self.used.cpu_s + now_used.cpu_s > self.cpu_s:
                self.kill(frames.CPU)
            elif now_used.anonymous_kb * 1024 > self.memory + (64 << 20):
                self.kill(frames.MEMORY)

    def kill(self, reason: bytes) -> None:
        """Kill the child; the first reason stays."""
        if self.reason == frames.EXIT:
            self.reason = reason
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)


def _of_all(child: int, others: frozenset[str]) -> Use:
    """Return what the run's living processes use, and what their reaped children used."""
    ticks, anonymous_kb = 0, 0
    mine_kb = _own_kb("self")
    for pid in _everyone(others) if os.getpid() == 1 else _descendants(child):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - a process may call itself anything
                ticks += sum(map(int, file.read().rpartition(b")")[2].split()[11:15]))
            anonymous_kb += max(0, _own_kb(pid) - mine_kb)
        except OSError:  # it has ended since
            continue
    return Use(ticks / _TICKS, anonymous_kb)


def _everyone(others: frozenset[str]) -> list[str]:
    """All but this process and `others`: in a process namespace of its own that is the run."""
    found = {name for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
    return [*(found - others - {"1"})]


def _descendants(child: int) -> list[str]:
    """The child and what it started, as long as no link of the chain has died."""
    found = [str(child)]
    for pid in found:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                with open(f"/proc/{pid}/task/{task}/children") as file:  # noqa: PTH123
                    found += file.read().split()
        except OSError:
            continue
    return found


def _own_kb(name: str) -> int:
    """Return the memory of a process that no file stands behind, shared or not, in KiB.

    What several processes share is counted in each: nothing that they may read says who shares it.
    """
    with open(f"/proc/{name}/status", "rb") as file:  # noqa: PTH123
        fields = dict(line.split(b":", 1) for line in file)
    try:
        return sum(int(fields[field].split()[0]) for field in (b"RssAnon", b"RssShmem"))
    except KeyError:  # a kernel that does not tell them apart
        return int(fields[b"VmRSS"].split()[0]) if b"VmRSS" in fields else 0


def _waited_ms(pid: int) -> float:
    """Return how long a child stood ready without getting a processor; -1 where that cannot be seen."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:  # noqa: PTH123
            return int(file.read().split()[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return -1.0
