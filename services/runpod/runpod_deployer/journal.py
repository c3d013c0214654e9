"""What was made, written down before it is made: one line per event, on disk before the next request is sent.

An intent's name is unique to one request. So whatever happens between the intent and its id (a crash, a lost
answer), the name tells in any later listing whether the request was carried out. Holds the decoder's token:
the file is for its owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from runpod_deployer.deployment import Role
from runpod_deployer.schemas import Kind
from shared.errors import InvalidRequest

# No dash in a project's name: `psd-a-` must not be the beginning of another project's names.
PROJECT = re.compile(r"[a-z][a-z0-9]{0,19}")


@dataclass(frozen=True)
class Entry:
    """One resource that was asked for.

    id    None while nobody knows whether the request was carried out
    gone  whether it is certain that it does not exist (any more)
    """

    role: Role
    kind: Kind
    name: str
    at: float
    id: str | None = None
    gone: bool = False


class Journal:
    """The record of one project. Only one process may write to it at a time: see `held`."""

    def __init__(self, path: Path, project: str) -> None:
        if not PROJECT.fullmatch(project):
            raise InvalidRequest(
                f"project {project!r}: up to 20 of a-z and 0-9, a letter first", field="project"
            )
        self.path, self.project = path, project
        self.entries: dict[str, Entry] = {}
        self.deployment: dict[str, Any] | None = None
        for event in self._read():
            self._apply(event)

    @property
    def prefix(self) -> str:
        """What every name of this project begins with."""
        return f"psd-{self.project}-"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from working on this project. Raises InvalidRequest if one does."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InvalidRequest(
                    f"project {self.project}: another process is at work on it", hint="wait for its end"
                ) from None
            self.entries, self.deployment = {}, None
            for event in self._read():
                self._apply(event)
            yield
        finally:
            os.close(lock)

    # --- reading ---

    def live(self) -> list[Entry]:
        """Return what exists or may exist, oldest first."""
        return [entry for entry in self.entries.values() if not entry.gone]

    def of(self, role: Role) -> list[Entry]:
        """Return what exists or may exist in a role, oldest first."""
        return [entry for entry in self.live() if entry.role == role]

    # --- writing ---

    def deploy(self, deployment: dict[str, Any]) -> None:
        """Note what is to be deployed."""
        self._write({"event": "deployment", "deployment": deployment})

    def intend(self, role: Role, kind: Kind, name: str) -> None:
        """Note that a request is about to be sent."""
        self._write({"event": "intent", "role": role, "kind": kind, "name": name})

    def made(self, name: str, resource_id: str) -> None:
        """Note the id of what was made."""
        self._write({"event": "made", "name": name, "id": resource_id})

    def gone(self, name: str, why: str) -> None:
        """Note that it certainly does not exist (any more)."""
        self._write({"event": "gone", "name": name, "why": why})

    def _write(self, event: dict[str, Any]) -> None:
        event = {**event, "at": time.time()}
        self._append((json.dumps(event) + "\n").encode())
        self._apply(event)

    def _append(self, line: bytes) -> None:
        """Put one line on disk. A line that a crash has cut is closed first, so that it spoils no other."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line
            while line:
                line = line[os.write(file, line) :]
            os.fsync(file)
        finally:
            os.close(file)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> Iterator[dict[str, Any]]:
        """Yield the events. A line that is none was cut by a crash: what it announces was not yet begun."""
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    def _apply(self, event: dict[str, Any]) -> None:
        name = str(event.get("name", ""))
        match event.get("event"):
            case "deployment":
                self.deployment = dict(event["deployment"])
            case "intent" if event["kind"] in get_args(Kind) and event["role"] in get_args(Role):
                self.entries[name] = Entry(event["role"], event["kind"], name, float(event["at"]))
            case "made" if name in self.entries:
                self.entries[name] = replace(self.entries[name], id=str(event["id"]), gone=False)
            case "gone" if name in self.entries:
                self.entries[name] = replace(self.entries[name], gone=True)
