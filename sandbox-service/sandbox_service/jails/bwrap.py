"""Bubblewrap: namespaces of its own for processes, mounts, network, IPC and host name, without a daemon.

As root: no user namespace; the zygote keeps the capabilities to kill and to change uid, and each run gets a
fresh uid. Otherwise: a user namespace, no capability at all, and one uid for zygote and run; the zygote is
PID 1 and not dumpable, which is what protects it. Not covered: a bug in this machine's kernel, and memory
that no process owns (the tmpfs is capped by size, not by number of files).
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

from sandbox_service.inside import harden
from sandbox_service.jails import seccomp
from sandbox_service.jails.jail import (
    BIND_NOW,
    ENVIRONMENT,
    INSIDE,
    JailMissing,
    Start,
    interpreter,
    version_of,
    zygote_code,
)
from sandbox_service.jails.kernel import namespaces_hint
from sandbox_service.jails.uids import Uids

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ROOM = "/room"
# Children forked ahead, back to back. With one uid for all runs, a run could end those beside it.
_WAITING = 8
_TMP_BYTES, _SHM_BYTES = 64 << 20, 16 << 20


class Bwrap:
    """The bubblewrap jail. Raises JailMissing where the program or the kernel's permission is missing."""

    name = "bwrap"
    exact_cpu = True

    def __init__(self, uids: Uids, python: Path | None = None) -> None:
        self.program = shutil.which("bwrap") or ""
        if not self.program:
            raise JailMissing("bwrap is not installed", hint="install the package `bubblewrap`")
        if not seccomp.supported():
            raise JailMissing("there is no seccomp table for this processor", hint="use x86_64 or aarch64")
        self.python = interpreter(python)
        self.compiler: Path | None = self.python
        self.root, self.uids = os.geteuid() == 0, uids
        self.layers: tuple[str, ...] = (
            "pid, mount, network, ipc, uts namespaces" + ("" if self.root else ", user namespace"),
            "read-only system, private /tmp and /dev",
            "a fresh uid per run" if self.root else "one uid inside, zygote is PID 1",
            "no capabilities, no_new_privs",
            "seccomp",
            "rlimits",
        )
        self.weaknesses: tuple[str, ...] = (
            "shares this machine's kernel",
            "no cgroup: memory is held per process by RLIMIT_AS and for all together ten times a second",
            "files in /tmp are bounded by bytes (64 MiB), not by number",
            *(() if self.root else ("zygote and run share a uid",)),
        )
        self._try()

    def _try(self) -> None:
        """Start `true` in the jail, and say what this machine refuses."""
        command = [*self._command(), "--", "/usr/bin/env", "true"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={}, check=False)
        if done.returncode:
            raise JailMissing(f"bwrap cannot start here: {done.stderr.strip()[:300]}", hint=namespaces_hint())

    def _command(self) -> list[str]:
        command = [self.program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--hostname", "jail", "--die-with-parent", "--new-session"]
        command += ["--as-pid-1", "--cap-drop", "ALL", "--clearenv"]
        if self.root:
            command += [
                word
                for cap in ("KILL", "SETUID", "SETGID", "SETPCAP")
                for word in ("--cap-add", f"CAP_{cap}")
            ]
        else:
            command += ["--unshare-user", "--uid", "20000", "--gid", "20000"]
        for path in map(Path, _SYSTEM):
            if path.is_symlink():
                command += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                command += ["--ro-bind", str(path), str(path)]
        command += ["--perms", "0755", "--dir", "/etc"]
        for name in _ETC:
            command += ["--ro-bind-try", name, name]
        prefix = self.python.parent.parent
        if not prefix.is_relative_to("/usr"):
            for parent in reversed(prefix.parents[:-1]):
                command += ["--perms", "0755", "--dir", str(parent)]
            command += ["--ro-bind", str(prefix), str(prefix)]
        command += [
            "--ro-bind",
            str(INSIDE),
            f"{_ROOM}/sandbox_service/inside",
            "--proc",
            "/proc",
            "--tmpfs",
            "/dev",
        ]
        for device in _DEVICES:
            command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        command += ["--symlink", "/proc/self/fd", "/dev/fd"]
        command += ["--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]
        command += ["--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm"]
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
        for variable, value in {**ENVIRONMENT, **BIND_NOW}.items():
            command += ["--setenv", variable, value]
        return command

    def version(self) -> str:
        return version_of(self.python)

    def start(self, lane: int) -> Start:
        argv = [*self._command(), "--", str(self.python), "-s", "-S", "-c", zygote_code(_ROOM)]
        first, count = self.uids.block(lane) if self.root else (None, 0)
        setup = {
            "room": _ROOM,
            "environment": ENVIRONMENT,
            "capabilities": [harden.CAP_KILL, harden.CAP_SETUID, harden.CAP_SETGID],
            "uid_first": first,
            "uid_count": count,
            "waiting": _WAITING if self.root else 1,
            "counted": 0 if self.root else 1,
            "home": "/tmp",
            "writable": ["/tmp", "/dev/shm"],
            "seccomp": base64.b64encode(seccomp.assemble(sockets=True, signals=True)).decode(),
        }
        return Start(tuple(argv), setup, {})

    def sweep(self, lane: int) -> None:
        """Nothing outlives PID 1 of a process namespace, and its mounts go with it."""

    def close(self) -> None:
        """There is nothing on this machine to delete."""
