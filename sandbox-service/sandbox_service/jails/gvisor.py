"""gVisor without a daemon: each lane is a warm `runsc run` with a kernel of its own, written in Go.

A program's system calls end in that kernel; this machine's sees only what it needs itself. Whoever starts
runsc, uids inside are the sandbox's own, so each run has a fresh one, and the zygote is root inside, with
the capabilities to kill and to change uid. /proc is the zygote's alone: gVisor shows every process's memory
map and environment to all uids. Not covered: a bug in gVisor and then in this machine's kernel, and memory
that no process owns (the tmpfs is capped by size, not by number of files).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
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
    version_of,
    zygote_code,
)
from sandbox_service.jails.kernel import namespaces_hint
from sandbox_service.jails.lives import Life
from sandbox_service.jails.uids import Uids

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("ld.so.cache", "localtime")
_ROOM = "/room"
TMP_BYTES, SHM_BYTES = 64 << 20, 16 << 20
_START_S, _DELETE_S = 20, 10
# The interpreter's memory in one piece: gVisor pays for each mapping that a fork has to copy on write.
MEMORY = {
    "PYTHONMALLOC": "malloc",
    "MALLOC_TOP_PAD_": str(16 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_ARENA_MAX": "1",
}
# gVisor refuses to set these from inside; the zygote finds them as it wants them.
RLIMITS = {"RLIMIT_MSGQUEUE": 0, "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0}
# gVisor counts a process for the uid that it was forked with: a run's first one is the zygote's.
UNCOUNTED = -1
# Executed as root inside, first of all: nobody else sees /proc, and the devices gVisor always makes go.
CLOSE = """
import os
os.chmod('/proc', 0o700)
for device in ('/dev/fuse', '/dev/net/tun'):
    if os.path.exists(device): os.unlink(device)
"""


class GVisor:
    """The gVisor jail. Raises JailMissing where the program or the kernel's permission is missing."""

    name = "gvisor"
    exact_cpu = False

    def __init__(self, uids: Uids, python: Path | None = None, *, old: bool = True) -> None:
        """old   accept a runsc of before 2023, which has only the platform ptrace"""
        program = shutil.which("runsc")
        if program is None:
            raise JailMissing(
                "runsc is not installed", hint="install the package `runsc`, or see services/gvisor/README.md"
            )
        if not seccomp.supported():
            raise JailMissing("there is no seccomp table for this processor", hint="use x86_64 or aarch64")
        self.python, self.uids, self.rootless = interpreter(python), uids, os.geteuid() != 0
        self.compiler: Path | None = self.python
        self.platform = _platform(program)
        if self.platform == "ptrace" and not old:
            raise JailMissing(
                f"{program} is of before 2023: its only platform, ptrace, is no longer maintained",
                hint="install a newer runsc, or accept this one by SANDBOX_JAIL=gvisor",
            )
        self.layers: tuple[str, ...] = (
            f"gVisor's own kernel ({self.platform}{', rootless' if self.rootless else ''})",
            "read-only system, private /tmp and /dev/shm, no network",
            "/proc for the zygote alone",
            "a fresh uid per run",
            "no capabilities, no_new_privs",
            "seccomp inside",
            "rlimits",
        )
        self.weaknesses: tuple[str, ...] = (
            "a bug in gVisor leads to a process with few system calls of this machine's kernel",
            *(("this runsc is of before 2023",) if self.platform == "ptrace" else ()),
            "no cgroup: memory is held per process by RLIMIT_AS and for all together ten times a second",
            "files in /tmp are bounded by bytes (64 MiB), not by number",
        )
        self._life = Life("gvisor", self._delete_all)
        self._runsc = [program, "--network=none", "--ignore-cgroups", f"--platform={self.platform}"]
        self._runsc += ["--overlay2=none", "--file-access-mounts=exclusive"]
        self._runsc += ["--rootless"] if self.rootless else []
        try:
            self._life.sweep()
            self._try()
        except BaseException:
            self.close()
            raise

    def _try(self) -> None:
        """Start `true` in the jail, and say what this machine refuses."""
        self.write("try", ["/usr/bin/env", "true"])
        try:
            done = subprocess.run(
                self.command("try"), capture_output=True, text=True, timeout=_START_S, env={}, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise JailMissing(
                f"runsc did not start within {_START_S} s on the platform {self.platform!r}",
                hint="use another release of runsc; see services/gvisor/README.md",
            ) from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            hint = f"{namespaces_hint()}; services/gvisor/README.md names all it needs"
            raise JailMissing(f"runsc cannot start here: {said[-300:]}", hint=hint)

    def command(self, name: str, identifier: str = "") -> list[str]:
        """Return the command that runs a bundle, as a container of that identifier."""
        folder = self._life.folder
        bundle = f"--bundle={folder}/{name}"
        return [
            *self._runsc,
            f"--root={folder}/state",
            "run",
            bundle,
            identifier or _identifier(folder, name),
        ]

    def write(self, name: str, argv: list[str]) -> None:
        """Write a bundle: the root file system that all share, and the container's configuration."""
        folder = self._life.folder
        root = folder / "root"
        if not root.exists():
            _make_root(root, self._binds())
        (folder / name).mkdir(exist_ok=True)
        text = json.dumps(self._specification(root, argv))
        (folder / name / "config.json").write_text(text, encoding="utf-8")

    def _binds(self) -> dict[str, str]:
        """What of this machine is seen inside, read-only: path inside -> path here."""
        binds = {path: path for path in _SYSTEM if not Path(path).is_symlink() and Path(path).is_dir()}
        prefix = str(self.python.parent.parent)
        if not self.python.is_relative_to("/usr"):
            binds[prefix] = prefix
        return {**binds, f"{_ROOM}/sandbox_service/inside": str(INSIDE)}

    def _specification(self, root: Path, argv: list[str]) -> dict[str, Any]:
        """The container as the OCI runtime specification 1.0 has it."""
        capabilities = ["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"]
        environment = {**ENVIRONMENT, **BIND_NOW, **MEMORY}
        mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        mounts += [
            {"destination": inside, "type": "bind", "source": here, "options": ["rbind", "ro"]}
            for inside, here in self._binds().items()
        ]
        mounts += [
            {
                "destination": path,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["mode=1777", f"size={size}"],
            }
            for path, size in (("/tmp", TMP_BYTES), ("/dev/shm", SHM_BYTES))
        ]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": argv,
                "env": [f"{name}={value}" for name, value in environment.items()],
                "cwd": "/tmp",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                "rlimits": [{"type": name, "hard": value, "soft": value} for name, value in RLIMITS.items()],
                "noNewPrivileges": True,
            },
            "root": {"path": str(root), "readonly": True},
            "hostname": "jail",
            "mounts": mounts,
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }

    def version(self) -> str:
        return version_of(self.python)

    def start(self, lane: int) -> Start:
        name = f"lane-{lane}"
        self.write(name, [str(self.python), "-s", "-S", "-c", CLOSE + zygote_code(_ROOM)])
        first, count = self.uids.block(lane)
        setup = {
            "room": _ROOM,
            "environment": ENVIRONMENT,
            "capabilities": [harden.CAP_KILL, harden.CAP_SETUID, harden.CAP_SETGID],
            "uid_first": first,
            "uid_count": count,
            "counted": UNCOUNTED,
            "home": "/tmp",
            "writable": ["/tmp", "/dev/shm"],
            "seccomp": base64.b64encode(seccomp.assemble(sockets=True, signals=True)).decode(),
        }
        return Start(tuple(self.command(name)), setup, {})

    def sweep(self, lane: int) -> None:
        """Kill the sandbox of a lane whose runsc was killed, and forget it."""
        self._delete(self._life.folder, f"lane-{lane}")

    def close(self) -> None:
        self._life.end()

    def _delete_all(self, folder: Path) -> None:
        """Kill every sandbox whose state lies in the folder of a life."""
        for bundle in folder.glob("*/config.json"):
            self._delete(folder, bundle.parent.name)

    def _delete(self, folder: Path, name: str) -> None:
        identifier = _identifier(folder, name)
        if not any((folder / "state").glob(f"*{identifier}*")):
            return
        command = [*self._runsc, f"--root={folder}/state", "delete", "--force", identifier]
        subprocess.run(command, capture_output=True, timeout=_DELETE_S, env={}, check=False)


def _identifier(folder: Path, name: str) -> str:
    """A container's identifier: runsc wants one that no other on this machine has, whatever its folder."""
    return f"{folder.name}-{name}"


def _platform(program: str) -> str:
    """Return the platform this runsc knows: systrap, or ptrace before 2023. Never KVM, which needs a device
    that a service should not hold, and which has been seen to hang in a nested virtual machine."""
    done = subprocess.run(
        [program, "flags"], capture_output=True, text=True, timeout=_START_S, env={}, check=False
    )
    return "systrap" if "systrap" in done.stdout + done.stderr else "ptrace"


def _make_root(root: Path, binds: dict[str, str]) -> None:
    """Make the root file system: mount points, links, and two files of /etc; nothing else of this machine."""
    for name in ("proc", "dev", "tmp", "etc", *(inside.lstrip("/") for inside in binds)):
        (root / name).mkdir(parents=True, exist_ok=True)
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            (root / path.name).symlink_to(path.readlink())
    for name in _ETC:
        if (Path("/etc") / name).exists():
            shutil.copy(Path("/etc") / name, root / "etc" / name)
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o755)
