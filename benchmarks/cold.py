"""The plain way to judge: a fresh jail and a fresh `python -I -S` per verdict, by exit status, no HTTP."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

PYTHON = ("-I", "-S", "-")


class Cold(NamedTuple):
    """A name, and what gives the command of the next fresh interpreter; `prepare` runs before it."""

    name: str
    command: Callable[[], list[str]]
    prepare: Callable[[], None] | None = None

    def passes(self, text: bytes, wall_s: float) -> bool:
        """Run one program with its tests; True when it exits with 0."""
        try:
            done = subprocess.run(
                self.command(), input=text, capture_output=True, timeout=wall_s, preexec_fn=self.prepare
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


@contextmanager
def cold_way(jail: str, python: Path, limits: dict[str, float]) -> Iterator[Cold]:
    """The plain way of a jail. Under gVisor and Docker it has no limits but its wall time."""
    match jail:
        case "gvisor":
            with gvisor(python) as way:
                yield way
        case "docker":
            with docker() as way:
                yield way
        case _:
            command = bubblewrapped(python)
            yield Cold("fresh bwrap, fresh python -I -S", lambda: command, partial(limit, limits))


@contextmanager
def gvisor(python: Path) -> Iterator[Cold]:
    """`runsc run` of the same container as the sandbox's, with a plain interpreter in it."""
    from sandbox_service.jails.gvisor import GVisor
    from sandbox_service.jails.uids import Uids

    jail, number = GVisor(Uids(20_000, 1, 1), python), itertools.count()
    jail.write("cold", [str(python), *PYTHON])
    try:
        yield Cold(
            f"fresh runsc ({jail.platform}), fresh python -I -S",
            lambda: jail.command("cold", f"cold-{os.getpid()}-{next(number)}"),
        )
    finally:
        jail.close()


@contextmanager
def docker() -> Iterator[Cold]:
    """`docker exec` in one warm container of the sandbox's image and runtime."""
    from sandbox_service.settings import SandboxSettings

    settings = SandboxSettings()
    engine = [shutil.which("docker") or "docker", "-H", str(settings.docker_host)]
    name = f"cold-{uuid.uuid4().hex}"
    warm = ["run", "-d", "--rm", "--name", name, "--network", "none", "--read-only"]
    warm += ["--runtime", settings.docker_runtime, "--tmpfs", "/tmp", settings.docker_image, "sleep", "1d"]
    subprocess.run([*engine, *warm], check=True, capture_output=True)
    try:
        yield Cold(
            f"docker exec ({settings.docker_runtime}), fresh python -I -S",
            lambda: [*engine, "exec", "-i", name, "python3", *PYTHON],
        )
    finally:
        subprocess.run([*engine, "rm", "-f", name], check=True, capture_output=True)


def bubblewrapped(python: Path) -> list[str]:
    """Return the command of a fresh jail with a fresh interpreter."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    command += ["--cap-drop", "ALL", "--clearenv", "--ro-bind", "/usr", "/usr"]
    for path in map(Path, ("/bin", "/lib", "/lib64", "/sbin")):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    prefix = python.parent.parent
    if not prefix.is_relative_to("/usr"):
        command += ["--ro-bind", str(prefix), str(prefix)]
    command += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        str(64 << 20),
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
    ]
    return [*command, str(python), "-I", "-S", "-"]


def limit(limits: dict[str, float]) -> None:
    """Set the same limits the sandbox sets, in the child before bwrap."""
    for which, value in (
        (resource.RLIMIT_CPU, int(limits["cpu_s"])),
        (resource.RLIMIT_AS, int(limits["memory_mb"]) << 20),
        (resource.RLIMIT_FSIZE, int(limits["file_mb"]) << 20),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_NPROC, int(limits["processes"])),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (value, value))
