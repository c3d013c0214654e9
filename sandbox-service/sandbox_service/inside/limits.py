"""The limits of a run that the kernel holds a process to, set hard: it cannot set them back. Stdlib only."""

from __future__ import annotations

import math
import resource

DESCRIPTORS = 128

_NPROC = getattr(resource, "RLIMIT_NPROC", None)
_LOCKED = 64 << 10  # bytes; with 0, gVisor cannot patch system calls into jumps and traps each of them
_FIXED = {
    "RLIMIT_NOFILE": DESCRIPTORS, "RLIMIT_CORE": 0, "RLIMIT_MSGQUEUE": 0, "RLIMIT_MEMLOCK": _LOCKED,
    "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0,
}  # fmt: skip
_baseline = 0
_most: dict[int, int] = {}


def limit(cpu_s: float, memory: int, file_bytes: int, processes: int) -> None:
    """Limit this process and all it forks. `memory` is in bytes, on top of the interpreter's."""
    for which, value in (
        (resource.RLIMIT_CPU, math.ceil(cpu_s) + 1),  # a backstop: it counts in ticks, the zygote exactly
        (resource.RLIMIT_AS, memory + _baseline),
        (resource.RLIMIT_FSIZE, file_bytes),
        (_NPROC, processes),
    ):
        if which is not None:
            value = min(value, _most[which])
            resource.setrlimit(which, (value, value))


def measure() -> None:
    """Note how much address space the interpreter has, and set the limits that are the same for every run.

    Called once, by the zygote, when it is warm; every child inherits what is set here.
    """
    global _baseline
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            _baseline = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no /proc on this system: leave room for an interpreter
        _baseline = 1 << 28
    for name, value in _FIXED.items():
        which = getattr(resource, name, None)
        if which is not None:
            value = min(value, _hard(which))
            if resource.getrlimit(which) != (value, value):  # gVisor lets some be set from outside only
                resource.setrlimit(which, (value, value))
    for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, _NPROC):
        if which is not None:
            _most[which] = _hard(which)


def _hard(which: int) -> int:
    """Return a limit as a number that can be compared."""
    most = resource.getrlimit(which)[1]
    return (1 << 63) - 1 if most == resource.RLIM_INFINITY else most
