"""Process 1 of a pod: starts services, then the one program they are for, and ends with that one's exit code.

It reaps what is orphaned, restarts a service that dies, forwards signals, and stops everything at a deadline.
It knows nothing of the programs but their commands. Every program has a session of its own, so that none of a
service's children outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

# Sent on to the main program as they are; each of them also ends the waiting for it.
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
TICK_S, READY_TIMEOUT_S = 0.2, 2.0
# Seconds before a service that died starts again, doubled each time; a life of STEADY_S begins anew.
FIRST_BACKOFF_S, MAX_BACKOFF_S, STEADY_S = 1.0, 30.0, 60.0
# A service that dies this often without ever having been ready will not get better.
TRIES = 5
WRONG_SETTING = 2
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Program:
    """One program. `uid` None: as this process; `ready_url`: answers 200 when it can work."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    cwd: Path
    uid: int | None = None
    gid: int | None = None
    ready_url: str = ""


@dataclass
class Life:
    """What is known of a program while it runs, and between two runs."""

    program: Program
    pid: int | None = None
    started: float = 0.0
    restart_at: float | None = None
    backoff_s: float = FIRST_BACKOFF_S
    deaths: int = 0
    ready: bool = False
    shown: int = field(default=0)


class Supervisor:
    """Runs `services`, and once all are ready `main`; without `main`, the services until it is told to stop.

    deadline  seconds since the epoch at which everything is stopped; None is never
    grace_s   how long the main program may take after SIGTERM
    stop_s    how long a service may
    """

    def __init__(
        self, services: Sequence[Program], main: Program | None, *, deadline: float | None = None,
        grace_s: float = 120.0, stop_s: float = 15.0, say: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self._services = [Life(program) for program in services]
        self._main = Life(main) if main else None
        self._deadline, self._grace_s, self._stop_s = deadline, grace_s, stop_s
        self._say = say or (lambda line: print(f"pod: {line}", file=sys.stderr, flush=True))
        self._code: int | None = None
        self._kill_at: float | None = None
        self.timed_out = False
        self.signalled = False

    def run(self) -> int:
        """Run until the main program has ended; return its exit code, or 128 + the signal it died of.

        returns  also 2 if a service says that a setting is wrong, 1 if one never gets ready, and 0 without a
                 main program
        """
        watched = {signal.SIGCHLD, *FORWARDED}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            for life in self._services:
                self._start(life)
            while self._code is None:
                found = signal.sigtimedwait(watched, TICK_S)
                if found and found.si_signo != signal.SIGCHLD:
                    self._forward(found.si_signo)
                self._reap()
                self._tick()
            self._stop(self._lives())
            return self._code
        finally:
            self._show()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _lives(self) -> list[Life]:
        return [*self._services, *([self._main] if self._main else [])]

    def _start(self, life: Life) -> None:
        program = life.program
        life.started, life.restart_at = time.monotonic(), None
        if not life.shown and program.log.is_file():
            life.shown = program.log.stat().st_size
        with program.log.open("ab") as log:
            process = subprocess.Popen(
                program.command, env=dict(program.environment), cwd=program.cwd, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, user=program.uid, group=program.gid,
                extra_groups=[] if program.uid is not None else None, umask=0o007,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, []),
            )  # fmt: skip
        life.pid = process.pid
        # It is waited for by number in `_reap`, with every orphan; Popen must not miss its own child.
        process.returncode = 0
        self._say(f"{program.name}: started, process {life.pid}")

    def _forward(self, number: int) -> None:
        self.signalled = True
        if self._main and self._main.pid:
            self._say(f"{signal.Signals(number).name} goes to {self._main.program.name}")
            _signal(self._main.pid, number)
            self._kill_at = self._kill_at or time.monotonic() + self._grace_s
        else:
            self._code = 128 + number if self._main else 0

    def _reap(self) -> None:
        """Collect every process that has ended, ours or orphaned."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            for life in self._lives():
                if life.pid == pid:
                    self._ended(life, code)

    def _ended(self, life: Life, code: int) -> None:
        assert life.pid is not None
        _signal_group(life.pid, signal.SIGKILL)  # whatever it left in its session
        life.pid = None
        said = f"signal {-code}" if code < 0 else f"code {code}"
        self._say(f"{life.program.name}: ended with {said}")
        if life is self._main:
            self._code = 128 - code if code < 0 else code
            return
        now = time.monotonic()
        if now - life.started > STEADY_S:
            life.backoff_s, life.deaths = FIRST_BACKOFF_S, 0
        life.deaths += 1
        if not life.ready and (code == WRONG_SETTING or life.deaths >= TRIES):
            self._say(f"{life.program.name}: was never ready; see {life.program.log}")
            self._code = WRONG_SETTING if code == WRONG_SETTING else 1
            return
        life.restart_at = now + life.backoff_s
        self._say(f"{life.program.name}: starts again in {life.backoff_s:g} s")
        life.backoff_s = min(MAX_BACKOFF_S, 2 * life.backoff_s)

    def _tick(self) -> None:
        now = time.monotonic()
        self._show()
        if self._code is not None:
            return
        for life in self._services:
            if life.restart_at is not None and now >= life.restart_at:
                self._start(life)
            elif life.pid and not life.ready:
                life.ready = not life.program.ready_url or _is_ready(life.program.ready_url)
                if life.ready:
                    self._say(f"{life.program.name}: ready")
        main = self._main
        if main and main.pid is None and all(life.ready for life in self._services):
            self._start(main)
        if self._deadline is not None and time.time() >= self._deadline and not self.timed_out:
            self.timed_out = True
            self._say("the deadline has come")
            if main and main.pid:
                _signal(main.pid, signal.SIGTERM)
                self._kill_at = self._kill_at or now + self._grace_s
            else:
                self._code = 128 + signal.SIGTERM if main else 0
        if self._kill_at is not None and now >= self._kill_at and main and main.pid:
            self._say(f"{main.program.name}: did not end in {self._grace_s:g} s; killed")
            _signal_group(main.pid, signal.SIGKILL)
            self._kill_at = None

    def _stop(self, lives: Sequence[Life]) -> None:
        """End what still runs: drain, then kill."""
        alive = {life.pid: life for life in lives if life.pid}
        for pid in alive:
            _signal(pid, signal.SIGTERM)
        end = time.monotonic() + self._stop_s
        while alive:
            self._show()
            for pid in list(alive):
                if time.monotonic() >= end:
                    _signal_group(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        continue
                _signal_group(pid, signal.SIGKILL)
                alive.pop(pid).pid = None
            if alive:
                signal.sigtimedwait({signal.SIGCHLD}, TICK_S)

    def _show(self) -> None:
        """Pass on what the programs have written to their logs since the last time."""
        for life in self._lives():
            with contextlib.suppress(OSError), life.program.log.open("rb") as log:
                log.seek(life.shown)
                if text := log.read():
                    life.shown += len(text)
                    sys.stdout.buffer.write(text)
                    sys.stdout.buffer.flush()


def _is_ready(url: str) -> bool:
    try:
        # Plain HTTP within the pod: no certificates are read at each look.
        return httpx.get(url, timeout=READY_TIMEOUT_S, trust_env=False, verify=False).status_code == 200
    except httpx.HTTPError:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
