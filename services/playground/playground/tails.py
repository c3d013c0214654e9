"""Read JSON-lines files that may be large and still growing: their end, a sample of them, one task's lines.

No call reads more than a few megabytes, whatever a file's size, but the first one of an index, which looks
at every byte once. Lines that are torn or no objects are left out.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

Row = dict[str, Any]
# Up to here a file is read whole: some thousand steps.
WHOLE_BYTES = 2_000_000
BLOCKS, BLOCK_BYTES = 240, 8_192
LONGEST_LINE = 1_000_000
# How our own writer begins a line of heldout.jsonl and episodes.jsonl; others are parsed.
BEGINS = re.compile(rb'\{"step": -?\d+(?:\.\d+)?, "task_id": ("(?:[^"\\]|\\.)*")')


class Stamp(NamedTuple):
    """What a file is known by: the same stamp, the same content."""

    inode: int
    size: int
    changed_ns: int


def stamp(file: Path) -> Stamp | None:
    """Return a file's stamp, None where there is no file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def tail(file: Path, most_bytes: int = 65_536) -> list[Row]:
    """Return the rows whose lines lie whole within a file's last bytes, in their order; [] without one."""
    try:
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            return _rows(_from(source, max(0, size - most_bytes), size))
    except OSError:
        return []


def sampled(file: Path) -> tuple[list[Row], bool]:
    """Return a file's rows, or of a large one some from all over it, and whether it is all of them.

    A large file is looked at in blocks at even distances; of the rows of a block the mean is returned:
    numbers are averaged, what is no number is left out.
    """
    try:
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size <= WHOLE_BYTES:
                return _rows(_from(source, 0, size)), True
            found, end = [], 0
            for i in range(BLOCKS):
                start = max(end, (size - BLOCK_BYTES) * i // (BLOCKS - 1))
                if rows := _rows(_from(source, start, min(size, start + BLOCK_BYTES))):
                    found.append(mean_of(rows))
                end = start + BLOCK_BYTES
            return found, False
    except OSError:
        return [], True


def mean_of(rows: list[Row]) -> Row:
    """Return the mean of every number that stands in the rows, over the rows that have it."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                sums[key] = sums.get(key, 0.0) + value
                counts[key] = counts.get(key, 0) + 1
    # Of a share that is only written where it is not zero, the other rows count as zero.
    return {key: sums[key] / (len(rows) if key.startswith("verdict/") else counts[key]) for key in sums}


def _from(source: BinaryIO, start: int, end: int) -> bytes:
    """Return the whole lines that begin at or after `start` and end before `end`."""
    source.seek(max(0, start - 1))
    data = source.read(end - max(0, start - 1))
    # From one byte before: where that one ends a line, the first line is whole.
    if start > 0:
        data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
    return data[: data.rfind(b"\n") + 1]


def _rows(data: bytes) -> list[Row]:
    found = []
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


@dataclass
class TaskIndex:
    """Where in a file each task's lines begin. Extended as the file grows, made anew when it shrinks.

    name    how a line says which task it is of
    places  by task, the offsets of its lines
    """

    file: Path
    places: dict[str, array[int]] = field(default_factory=dict)
    _seen: int = 0
    _inode: int = 0

    def update(self) -> None:
        """Look at what was written since the last time."""
        now = stamp(self.file)
        if now is None or now.inode != self._inode or now.size < self._seen:
            self.places, self._seen = {}, 0
        if now is None or now.size == self._seen:
            return
        self._inode = now.inode
        with self.file.open("rb") as source:
            source.seek(self._seen)
            for line in _lines(source):
                if name := task_name(line):
                    self.places.setdefault(name, array("q")).append(self._seen)
                self._seen += len(line)

    def rows(self, task: str) -> list[Row]:
        """Return the rows of one task, in their order."""
        found: list[Row] = []
        if task in self.places:
            with self.file.open("rb") as source:
                for place in self.places[task]:
                    source.seek(place)
                    found += _rows(source.readline(LONGEST_LINE))
        return found


def _lines(source: BinaryIO) -> Iterator[bytes]:
    for line in source:
        if not line.endswith(b"\n"):
            return
        yield line


def task_name(line: bytes) -> str:
    """Return what a line calls its task: its task_id, else its split and place; empty for neither."""
    try:
        if match := BEGINS.match(line):
            return str(json.loads(match[1]))
        row = json.loads(line)
    except ValueError:
        return ""
    match row:
        case {"task_id": str(name)}:
            return name
        case {"place": int(place)}:
            return f"{row.get('split', 'train')}/{place}"
        case _:
            return ""
