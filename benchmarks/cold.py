"""The plain way to judge: a fresh jail and a fresh `python` per verdict, by exit status, no HTTP.

Twice: as people start it, and by `python -I -S`, which loads nothing that a program does not ask for.
"""

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

STARTS: dict[str, tuple[str, ...]] = {"python": ("-",), "python -I -S": ("-I", "-S", "-")}


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
def cold_ways(jail: str, python: Path, limits: dict[str, float]) -> Iterator[list[Cold]]:
    """The plain ways of a jail, one for each of STARTS. Under gVisor and Docker only wall time is limited."""
    match jail:
        case "gvisor":
            with gvisor(python) as ways:
                yield ways
        case "docker":
            with docker() as ways:
                yield ways
        case _:
            yield [
                Cold(
                    f"fresh bwrap, fresh {name}",
                    partial(list, bubblewrapped(python, flags)),
                    partial(limit, limits),
                )
                for name, flags in STARTS.items()
            ]


@contextmanager
def gvisor(python: Path) -> Iterator[list[Cold]]:
    """`runsc run` of the same container as the sandbox's, with a plain interpreter in it."""
    from sandbox_service.jails.gvisor import GVisor
    from sandbox_service.jails.uids import Uids

    jail, number = GVisor(Uids(20_000, 1, 1), python), itertools.count()

    def command(bundle: str) -> list[str]:
        return jail.command(bundle, f"cold-{os.getpid()}-{next(number)}")

    ways = []
    for at, (name, flags) in enumerate(STARTS.items()):
        jail.write(f"cold{at}", [str(python), *flags])
        ways.append(Cold(f"fresh runsc ({jail.platform}), fresh {name}", partial(command, f"cold{at}")))
    try:
        yield ways
    finally:
        jail.close()


@contextmanager
def docker() -> Iterator[list[Cold]]:
    """`docker exec` in one warm container of the sandbox's image and runtime."""
    from sandbox_service.settings import SandboxSettings

    settings = SandboxSettings()
    engine = [shutil.which("docker") or "docker", "-H", str(settings.docker_host)]
    name = f"cold-{uuid.uuid4().hex}"
    warm = ["run", "-d", "--rm", "--name", name, "--network", "none", "--read-only"]
    warm += ["--runtime", settings.docker_runtime, "--tmpfs", "/tmp", settings.docker_image, "sleep", "1d"]
    subprocess.run([*engine, *warm], check=True, capture_output=True)
    try:
        within = [*engine, "exec", "-i", name, "python3"]
        yield [
            Cold(f"docker exec ({settings.docker_runtime}), fresh {start}", partial(list, [*within, *flags]))
            for start, flags in STARTS.items()
        ]
    finally:
        subprocess.run([*engine, "rm", "-f", name], check=True, capture_output=True)


def bubblewrapped(python: Path, flags: tuple[str, ...]) -> list[str]:
    """Return the command of a fresh jail with a fresh interpreter that reads its program from stdin."""
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
    return [*command, str(python), *flags]


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
