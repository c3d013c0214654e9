"""What a jail keeps on this machine while its service lives; the next one deletes what is left of it.

Each life has a folder with a lock on it. The kernel gives the lock up when its holder dies, however it dies;
so a folder whose lock can be taken is an orphan's, and nothing has to be remembered about processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox_service.jails.jail import JailMissing


class Life:
    """A folder only this user can enter, `kill`ed and deleted at its end or by a later life of the same jail.

    kill    called with a folder: ends every process whose state lies in it
    raises  JailMissing when the folder of all lives is somebody else's
    """

    ROOT = Path(tempfile.gettempdir())

    def __init__(self, jail: str, kill: Callable[[Path], None]) -> None:
        self._kill = kill
        self._home = self.ROOT / f"sandbox-{jail}-{os.geteuid()}"
        with _alone(self._home):
            self.folder = Path(tempfile.mkdtemp(dir=self._home))
            self._lock = _locked(self.folder)

    def sweep(self) -> int:
        """Kill and delete what lives that were cut off left behind; return how many there were."""
        found = 0
        with _alone(self._home):
            for folder in self._home.iterdir():
                lock = None if folder == self.folder else _locked(folder)
                if lock is not None:
                    self._kill(folder)
                    _delete(folder)
                    os.close(lock)
                    found += 1
        return found

    def end(self) -> None:
        """Kill and delete what this life holds. May be called again."""
        if self._lock is not None:
            self._kill(self.folder)
            with _alone(self._home):
                _delete(self.folder)
                os.close(self._lock)
                self._lock = None
                with contextlib.suppress(OSError):  # others live there
                    self._home.rmdir()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Make the home of all lives, and keep other services from making and deleting folders meanwhile.

    raises  JailMissing when it is there and is somebody else's
    """
    door = _door(home)
    try:
        yield
    finally:
        os.close(door)


def _door(home: Path) -> int:
    """Take the home's lock. The last life to end deletes the home, perhaps while this one waits for it."""
    while True:
        home.mkdir(mode=0o700, exist_ok=True)
        try:
            here = home.lstat()
            if here.st_uid != os.geteuid() or home.is_symlink() or here.st_mode & 0o077:
                raise JailMissing(
                    f"{home} is not a folder of this user alone",
                    hint="delete it, or set TMPDIR to another",
                )
            door = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        fcntl.flock(door, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(door), home.lstat()):
                return door
        os.close(door)


def _locked(folder: Path) -> int | None:
    """Take a folder's lock; None when another holds it or the folder has gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _delete(folder: Path) -> None:
    subprocess.run(["rm", "-rf", "--", str(folder)], check=False, capture_output=True)
