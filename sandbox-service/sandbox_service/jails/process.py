"""A jail of processes alone, for machines that refuse namespaces (a managed container, macOS).

Three names, because they hold differently:
    process           as root on Linux: a fresh uid per run, seccomp, Landlock where the kernel has it
    process-same-uid  no root, but Landlock and seccomp: runs share the service's uid
    rlimits           neither: a program can read whatever the service's user can, and reach the network

None has a process namespace or a kernel of its own, and none holds memory of all processes together.
"""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sandbox_service.inside import harden
from sandbox_service.jails import seccomp
from sandbox_service.jails.jail import (
    BIND_NOW,
    ENVIRONMENT,
    INSIDE,
    JailMissing,
    Start,
    interpreter,
    usable,
    version_of,
    zygote_code,
)
from sandbox_service.jails.uids import Uids

_READABLE = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/localtime")
_PREFIX = "psuedoptimal-sandbox-"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Process:
    """The process jail, as strong as this machine lets it be; `name` says which."""

    exact_cpu = True

    def __init__(self, uids: Uids, python: Path | None = None) -> None:
        self.uids = uids
        self.filtered = harden.LINUX and seccomp.supported()
        self.landlock = self.filtered and harden.landlock_abi() > 0
        self.fresh = self.filtered and os.geteuid() == 0
        self.name = "process" if self.fresh else "process-same-uid" if self.landlock else "rlimits"
        self.python = _reachable(interpreter(python)) if self.fresh else interpreter(python)
        self.compiler: Path | None = self.python
        self.layers: tuple[str, ...] = (
            *(("a fresh uid per run", "no capabilities") if self.fresh else ()),
            *((f"Landlock (ABI {harden.landlock_abi()})",) if self.landlock else ()),
            *(("no_new_privs", "seccomp: no sockets") if self.filtered else ()),
            "rlimits",
        )
        self.weaknesses = self._weaknesses()
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that holds the lanes' folders; made when the first lane starts."""
        if self._folder is None:
            _sweep_orphans()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
            self._folder.chmod(0o711)
        return self._folder

    def _weaknesses(self) -> tuple[str, ...]:
        found = ["shares this machine's kernel and its list of processes"]
        found += ["memory and CPU are limited per process, not for all of a run together"]
        if not self.landlock:
            found += ["no Landlock: files that everybody may read can be read, and /tmp is shared"]
        if not self.fresh:
            found += [
                "runs share the service's uid; what a killed zygote leaves behind may live on",
                "RLIMIT_NPROC counts all processes of this user",
            ]
        if not self.filtered:
            found += ["no seccomp: the network is open"]
        return tuple(found)

    def version(self) -> str:
        return version_of(self.python)

    def start(self, lane: int) -> Start:
        folder = self.folder / f"lane-{lane}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777 if self.fresh else 0o700)
        first, count = self.uids.block(lane) if self.fresh else (None, 0)
        environment = {**ENVIRONMENT, "HOME": str(folder)}
        room = str(INSIDE.parent.parent)
        setup: dict[str, Any] = {
            "room": room,
            "environment": environment,
            "capabilities": [harden.CAP_KILL, harden.CAP_SETUID, harden.CAP_SETGID],
            "uid_first": first,
            "uid_count": count,
            "counted": 0 if self.fresh else _processes_of_this_user() + 64,
            "home": f"{folder}/{{uid}}",
            "writable": [str(folder)],
        }
        if self.landlock:
            prefix = str(self.python.parent.parent)
            readable = [*_READABLE, prefix]
            setup["landlock"] = {"readable": readable, "writable": [str(folder)], "devices": list(_DEVICES)}
        if self.filtered:
            setup["seccomp"] = base64.b64encode(seccomp.assemble(sockets=False, signals=True)).decode()
        if self.filtered and not self.fresh:
            lonely = seccomp.assemble(sockets=False, signals=False)
            setup["child_seccomp"] = base64.b64encode(lonely).decode()
        return Start((str(self.python), "-s", "-S", "-c", zygote_code(room)), setup, environment | BIND_NOW)

    def sweep(self, lane: int) -> None:
        """Kill what still has one of the lane's uids, and delete what the lane wrote."""
        if self.fresh:
            uids = self.uids.range(lane)
            for _ in range(100):
                pids = _processes_with(uids)
                if not pids:
                    break
                for pid in pids:
                    _kill(pid)
        self._delete(self.folder / f"lane-{lane}")

    def close(self) -> None:
        if self._folder is not None:
            self._delete(self._folder)
            self._folder = None

    @staticmethod
    def _delete(folder: Path) -> None:
        # rm, because a program can leave a tree that is deeper than Python's recursion.
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, capture_output=True)


def _sweep_orphans() -> None:
    """Delete the folders of services of this user that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            mine = folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink()
            if mine and pid.isdigit() and not _serves(pid):
                Process._delete(folder)
        except OSError:
            continue


def _serves(pid: str) -> bool:
    """Whether a process is alive and may be a sandbox: where it cannot be seen, it may."""
    try:
        os.kill(int(pid), 0)
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True


def _reachable(wanted: Path) -> Path:
    """Return a Python that any uid can start, this one if it can be; JailMissing when there is none."""
    for path in (wanted, Path("/usr/bin/python3").resolve(), Path("/usr/local/bin/python3").resolve()):
        if (
            path.exists()
            and all(parent.stat().st_mode & 1 for parent in (path, *path.parents))
            and usable(path)
        ):
            return path
    raise JailMissing(
        f"{wanted} lies in a folder closed to other users: a run with its own uid cannot use it",
        hint="install Python 3.10 or newer under /usr, or the package `bubblewrap`",
    )


def _processes_of_this_user() -> int:
    if sys.platform != "linux":
        return 1000
    return sum(1 for entry in os.scandir("/proc") if entry.name.isdigit() and _uid(entry.name) == os.getuid())


def _processes_with(uids: range) -> list[int]:
    found = (entry.name for entry in os.scandir("/proc") if entry.name.isdigit())
    return [int(name) for name in found if _uid(name) in uids]


def _uid(name: str) -> int:
    """Return a process's real uid, -1 when it is gone; the owner of /proc/PID does not tell it."""
    try:
        with Path(f"/proc/{name}/status").open("rb") as file:  # a process may call itself anything
            fields = next(line for line in file if line.startswith(b"Uid:")).split()
    except (OSError, StopIteration):
        return -1
    return int(fields[1])


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
