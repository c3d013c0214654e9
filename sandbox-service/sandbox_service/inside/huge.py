"""The interpreter's code in huge pages, which all that a zygote forks have from it at once. Stdlib only.

A fork does not inherit where a file's pages are: each child finds the interpreter's code again, sixteen pages
at a fault, and at its end each of those pages is given up one by one. Memory that no file stands behind is
inherited, and two mebibytes of it are one entry. So the code is copied once, before anything is forked.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import NamedTuple

HUGE = 2 << 20
_PAGE = 4096  # with others a huge page has another size
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE_ANONYMOUS, _HUGEPAGE, _MAY_MOVE_TO = 0x22, 14, 3


class Mapping(NamedTuple):
    """A line of /proc/self/maps: from `start` to `end`, as `rights` say; `path` is empty for no file."""

    start: int
    end: int
    rights: str
    path: str


def adopt() -> int:
    """Move the interpreter's code, as far as it fills huge pages, into some of this process' own.

    returns  how many were moved; 0 where there are none to be had, and then nothing is changed
    raises   OSError when the kernel refuses what it has to grant; what was not moved is where it was
    """
    if os.sysconf("SC_PAGESIZE") != _PAGE:
        return 0
    libc, moved = _libc(), 0
    for start in list(_wholes()):
        copy, there = _space(libc), False
        try:
            libc.madvise(copy, HUGE, _HUGEPAGE)
            ctypes.memmove(copy, start, HUGE)
            if not _is_huge(copy):
                return moved
            if libc.mprotect(copy, HUGE, _READ | _EXECUTE) < 0:
                raise _error("mprotect")
            there = libc.mremap(copy, HUGE, HUGE, _MAY_MOVE_TO, start) == start
            if not there:
                raise _error("mremap")
            moved += 1
        finally:
            if not there:  # where it was moved from may be somebody else's by now
                libc.munmap(copy, HUGE)
    return moved


def _wholes() -> Iterator[int]:
    """Give where each whole huge page of this interpreter's code and constants begins."""
    inside = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0
    for start, end in _stretches(inside):
        yield from range(-(-start // HUGE) * HUGE, end - HUGE + 1, HUGE)


def _stretches(inside: int) -> Iterator[tuple[int, int]]:
    """Give where the mappings beside each other begin and end that are the file's in which `inside` lies,
    which cannot be written, and of which one can be executed."""
    with open("/proc/self/maps") as file:  # noqa: PTH123
        mappings = [_mapping(line) for line in file]
    path = next((one.path for one in mappings if one.start <= inside < one.end), "")
    stretch: list[Mapping] = []
    for one in (*mappings, Mapping(0, 0, "", "")):
        fits = bool(path) and one.path == path and one.rights in ("r--p", "r-xp")
        if stretch and not (fits and one.start == stretch[-1].end):
            if any("x" in part.rights for part in stretch):
                yield stretch[0].start, stretch[-1].end
            stretch = []
        if fits:
            stretch.append(one)


def _mapping(line: str) -> Mapping:
    span, rights, _, _, _, *path = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in span.split("-"))
    return Mapping(start, end, rights, path[0].strip() if path else "")


def _space(libc: ctypes.CDLL) -> int:
    """Return where there is room for a huge page, and no more than that."""
    wide: int | None = libc.mmap(None, 2 * HUGE, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if wide is None or wide == ctypes.c_void_p(-1).value:
        raise _error("mmap")
    room = -(-wide // HUGE) * HUGE
    for start, end in ((wide, room), (room + HUGE, wide + 2 * HUGE)):
        if end > start:
            libc.munmap(start, end - start)
    return room


def _is_huge(start: int) -> bool:
    """Whether the memory that begins there is in a huge page."""
    within = False
    with open("/proc/self/smaps") as file:  # noqa: PTH123
        for line in file:
            name, _, value = line.partition(":")
            if name == "AnonHugePages" and within:
                return int(value.split()[0]) * 1024 >= HUGE
            if "-" in name.split(" ", 1)[0]:
                one = _mapping(line)
                within = one.start <= start < one.end
    return False


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    where, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype = libc.mremap.restype = where
    libc.mmap.argtypes = [where, size, number, number, number, ctypes.c_long]
    libc.mremap.argtypes = [where, size, size, number, where]
    libc.madvise.argtypes = libc.mprotect.argtypes = [where, size, number]
    libc.munmap.argtypes = [where, size]
    return libc


def _error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
