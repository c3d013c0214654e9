"""After a run: everything it started is dead and reaped, everything it wrote is gone. Stdlib only."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

_PATIENCE_S = 2.0
_ENTRIES_MAX = 20_000


class Reaped(NamedTuple):
    """What the reaped processes used: CPU seconds in all, and the largest resident size in KiB."""

    cpu_s: float
    peak_kb: int


NOTHING = Reaped(0.0, 0)


def reap_one(used: Reaped) -> tuple[int, int, Reaped] | None:
    """Reap one dead child: (pid, wait status, used), with pid 0 when none is dead; None when none is left."""
    try:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    if not pid:
        return 0, 0, used
    cpu_s = used.cpu_s + usage.ru_utime + usage.ru_stime
    return pid, status, Reaped(cpu_s, max(used.peak_kb, usage.ru_maxrss))


def kill_and_reap(used: Reaped, uid: int | None, children: int | None) -> tuple[bool, Reaped]:
    """Kill all that is left of a run and reap it.

    uid       the run's own uid: everything of that uid is killed by a process of that uid
    children  an open descriptor of this process' `children` file, for a jail with neither a process
              namespace nor uids to give; None in a process namespace, where kill(-1) reaches all
    returns   whether nothing is left, and what was used
    """
    end = time.monotonic() + _PATIENCE_S
    while True:
        found = reap_one(used)
        if found is None:
            return True, used
        pid, _, used = found
        if pid:
            continue
        if time.monotonic() > end:
            return False, used
        _kill(uid, children)
        time.sleep(0.0005)


def _kill(uid: int | None, children: int | None) -> None:
    if os.getpid() == 1:
        _signal(-1)
    elif uid is not None:
        as_user(uid, lambda: _signal(-1))
    elif children is not None:
        for pid in os.pread(children, 1 << 16, 0).split():
            _signal(int(pid))


def _signal(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 9)


def as_user(uid: int, act: Callable[[], None]) -> None:
    """Call `act` in a child of that uid and wait for it."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def wipe(folders: list[str], uid: int | None) -> bool:
    """Empty the folders a run may write to; return whether they are empty now."""
    dirty = [folder for folder in folders if not _is_empty(folder)]
    for folder in dirty:
        if uid is None:
            _empty(folder)
        else:
            as_user(uid, partial(_empty, folder))
    return all(_is_empty(folder) for folder in dirty)


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _empty(folder: str) -> None:
    """Delete what is below `folder`, as far as it goes: no links are followed, no path gets long.

    A tree that is too deep or too large is left standing; the caller sees that and the jail is thrown away.
    """
    with contextlib.suppress(OSError):  # it is root's, and need not be changed then
        os.chmod(folder, 0o700 | stat.S_IMODE(os.stat(folder).st_mode))  # noqa: PTH101, PTH116
    budget, stack = _ENTRIES_MAX, [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)]
    names: list[str] = []
    while stack and budget > 0 and len(stack) < 64:
        below = None
        with os.scandir(stack[-1]) as entries:
            for entry in entries:
                budget -= 1
                if entry.is_dir(follow_symlinks=False):
                    below = entry.name
                    break
                os.unlink(entry.name, dir_fd=stack[-1])
        if below is not None:
            os.chmod(below, 0o700, dir_fd=stack[-1])
            stack.append(os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=stack[-1]))
            names.append(below)
            continue
        os.close(stack.pop())
        if stack:
            os.rmdir(names.pop(), dir_fd=stack[-1])
    for left in stack:
        os.close(left)
