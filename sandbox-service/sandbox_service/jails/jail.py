"""The boundary every jail stands behind: how to start a zygote in it, and what it holds and does not hold.

A jail is one file: gVisor and Docker differ from bubblewrap only in the command that starts the zygote, in
its setup, and in how what is left of a dead lane is killed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shared.errors import Unsupported

INSIDE = Path(__file__).resolve().parent.parent / "inside"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/tmp"}
# Symbols are looked up once, by the zygote, and not by each child; the zygote forgets this variable.
BIND_NOW = {"LD_BIND_NOW": "1"}

# Executed by a Python: it fails where one is too old, or lacks what distributions split off.
CHECK = "import sys, decimal, json, pprint, statistics, unicodedata; assert sys.version_info >= (3, 10)"

# The zygote's environment is the candidate's too (/proc/self/environ): it is built from nothing.
# Hash seed 0, so that the order of a set of strings, and with it a verdict, is the same in every lane.
_START = "import sys; sys.path.insert(0, {root!r}); from sandbox_service.inside import zygote; zygote.main()"


@dataclass(frozen=True)
class Start:
    """How a zygote is started: a command whose stdin takes requests and whose stdout gives replies.

    `setup` goes to it as JSON (see inside/zygote.py); `descriptors` are left open for the command.
    """

    argv: tuple[str, ...]
    setup: Mapping[str, Any]
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()


class Jail(Protocol):
    """One way to hold a zygote. Lane numbers run from 0 and are reused; uids and folders hang on them.

    exact_cpu   whether CPU time is what a processor worked; gVisor counts ticks of the clock while a program
                would run, some of them while others have the processors
    compiler    an interpreter of this machine whose compiled code its runs can load; None where there is none
    """

    name: str
    exact_cpu: bool
    layers: tuple[str, ...]
    weaknesses: tuple[str, ...]
    python: Path
    compiler: Path | None

    def version(self) -> str:
        """Return the version of the Python that runs have, as 3.11.7. May block for milliseconds."""
        ...

    def start(self, lane: int) -> Start:
        """Say how to start the zygote of a lane; called again after each death."""
        ...

    def sweep(self, lane: int) -> None:
        """Kill and delete what is left of a lane whose own process is dead. May block for milliseconds."""
        ...

    def close(self) -> None:
        """Delete what the jail made on this machine."""
        ...


class JailMissing(Unsupported):
    """This machine cannot give that jail; the hint names the package or the kernel setting."""

    code, title = "jail-missing", "This machine cannot give that jail"


def zygote_code(root: str) -> str:
    """Return the Python text that starts a zygote whose package lies below `root`."""
    return _START.format(root=root)


def interpreter(wanted: Path | None = None) -> Path:
    """Return the interpreter of the jail's runs: never a virtual environment's link, but what it leads to.

    wanted   one from the settings; JailMissing when it is not there or cannot run programs
    returns  else a system interpreter of this one's version, which needs no mount beside /usr and which
             distributions build optimised; else the one this process runs on
    """
    if wanted is not None:
        if not usable(wanted.resolve()):
            raise JailMissing(
                f"SANDBOX_PYTHON={wanted}: not a Python of version 3.10 or newer with its standard library",
                hint="name the program itself, as /usr/bin/python3.11, or leave it unset",
            )
        return wanted.resolve()
    system = Path("/usr/bin/python{}.{}".format(*sys.version_info)).resolve()
    if usable(system):
        return system
    executable = getattr(sys, "_base_executable", None) or sys.executable
    return Path(executable).resolve()


def usable(python: Path) -> bool:
    """Whether programs can be run with it: new enough, and with what distributions split off there."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-S", "-c", f"{CHECK}; print('usable')"], check=False, env={},
            capture_output=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    # What is no Python at all may end with 0 too.
    return done.stdout == b"usable\n"


def version_of(python: Path) -> str:
    """Return the version of an interpreter of this machine."""
    if str(python) == sys.executable:
        return sys.version.split()[0]
    command = [str(python), "-I", "-S", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]
