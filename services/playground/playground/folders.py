"""The runs folder: which runs there are, what each is, and whether it is still being written. Never writes.

A run is a folder right below the runs folder that holds a config.yaml. Nothing else can be named by a URL.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from playground.tails import Row, Stamp, stamp, tail
from shared.errors import NotFound
from trainer.measure.folder import RunFolder, read_object
from trainer.runs import LOCK, STEPPED

T = TypeVar("T")
# What is written of a run when its training is over, by whichever verb.
MEASURED = ("summary.json", "evaluation.json", "controls.json")
State = Literal["running", "finished", "stopped"]
# A process in another container holds its lock unseen: a run that wrote so lately is taken for a running one.
QUIET_S = 60.0
LOCKS = Path("/proc/locks")
MAX_YAML_BYTES = 200_000
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Remembered:
    """A bounded store of what was worked out from files, for as long as they do not change."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._found: OrderedDict[Hashable, tuple[Hashable, Any]] = OrderedDict()

    def get(self, key: Hashable, version: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned for this key at this version."""
        with self._lock:
            known = self._found.get(key)
            if known is not None and known[0] == version:
                self._found.move_to_end(key)
                value: T = known[1]
                return value
        value = make()
        with self._lock:
            self._found[key] = (version, value)
            self._found.move_to_end(key)
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        return value


@dataclass(frozen=True)
class RunCard:
    """One line of the list of runs.

    step, steps  the last one written, and how many there will be; None where nobody says
    figures      the last figures by name, as they stand in metrics.jsonl
    heldout      of summary.json, else of the last line of evaluations.jsonl
    changed      when it last wrote, seconds since 1970
    """

    name: str
    channel: str
    state: State
    step: int | None
    steps: int | None
    changed: float
    figures: Row = field(default_factory=dict)
    heldout: Row = field(default_factory=dict)
    evaluated: bool = False
    has_student: bool = False


class Folders:
    """The runs folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._cards, self._objects = Remembered(2000), Remembered(256)

    def names(self) -> list[str]:
        """Return every run's name, the one that wrote last first."""
        try:
            entries = [entry for entry in self.root.iterdir() if _is_run(entry)]
        except OSError:
            return []
        return [entry.name for entry in sorted(entries, key=_changed, reverse=True)]

    def path(self, name: str) -> Path:
        """Return a run's folder. Raises NotFound for a name that is none."""
        folder = self.root / name
        if Path(name).name != name or name in ("", ".", "..") or not _is_run(folder):
            raise NotFound(
                f"no run {name[:100]!r} in {self.root}", hint="the list of runs shows what there is"
            )
        return folder

    def card(self, name: str) -> RunCard:
        """Return what the list says of one run. Raises NotFound."""
        folder = self.path(name)
        files = ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "summary.json", "evaluation.json", LOCK)
        version = tuple(stamp(folder / file) for file in files)
        changed = _changed(folder)
        # Whether a lock is held, and what counts as lately, no file's stamp tells.
        state = state_of(folder, changed)
        return self._cards.get(name, (version, state), lambda: _card(folder, state, changed))

    def config(self, name: str) -> Row:
        """Return a run's settings; empty if the file cannot be read."""
        file = self.path(name) / "config.yaml"
        return self._objects.get(file, stamp(file), lambda: _yaml(file))

    def object(self, name: str, file: str) -> Row:
        """Return one of a run's JSON files; empty without it, or if it cannot be read."""
        path = self.path(name) / file
        return self._objects.get(path, stamp(path), lambda: _object(path))

    def measured(self, name: str) -> RunFolder:
        """Return a run without its long files: what comparing finished runs needs."""
        folder = self.path(name)
        heldout = []
        if channel_of(self.config(name)) == "program" and not self.object(name, "evaluation.json"):
            heldout = tail(folder / "heldout.jsonl", 4_000_000)
        return RunFolder(
            folder,
            config=self.config(name),
            services=self.object(name, "services.json"),
            summary=self.object(name, "summary.json"),
            evaluation=self.object(name, "evaluation.json"),
            heldout=heldout,
        )

    def stamps(self, name: str) -> tuple[Stamp | None, ...]:
        """Return what changes when a run writes."""
        folder = self.path(name)
        return tuple(stamp(folder / file) for file in (*STEPPED, *MEASURED))


def state_of(folder: Path, changed: float) -> State:
    """Return whether a run is being written, came to its end, or stopped before it.

    changed  when it last wrote, seconds since 1970
    """
    if lock_held(folder / LOCK):
        return "running"
    if (folder / "summary.json").is_file():
        return "finished"
    return "running" if time.time() - changed < QUIET_S else "stopped"


def lock_held(lock: Path) -> bool:
    """Return whether a process that can be seen from here holds a lock file.

    Read from /proc/locks: trying the lock would keep a trainer out that starts in the same moment.
    """
    try:
        inode = lock.stat().st_ino
        lines = LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any(f":{inode} " in line and "FLOCK" in line for line in lines)


def channel_of(config: Row) -> str:
    """Return text, program or latent by the settings that only one of them has; empty for neither."""
    for key, channel in (
        ("length_penalty", "program"),
        ("target_pass_rate", "text"),
        ("kl_temperature", "latent"),
    ):
        if key in config:
            return channel
    return ""


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "config.yaml").is_file()
    except OSError:  # another user's, or a name longer than a file's may be
        return False


def _card(folder: Path, state: State, changed: float) -> RunCard:
    config, summary = _yaml(folder / "config.yaml"), _object(folder / "summary.json")
    last = tail(folder / "metrics.jsonl", 16_384)[-1:] or tail(folder / "metrics.jsonl", 262_144)[-1:]
    figures = last[0] if last else {}
    looks = tail(folder / "evaluations.jsonl", 16_384)
    heldout = summary.get("heldout")
    if not isinstance(heldout, dict):
        heldout = looks[-1] if looks else {}
    step, steps = figures.get("step"), config.get("max_steps")
    return RunCard(
        folder.name,
        str(summary.get("channel") or channel_of(config)),
        state,
        step if isinstance(step, int) else None,
        # A run that was resumed with more steps has gone beyond what its settings say.
        steps if isinstance(steps, int) and steps >= (step if isinstance(step, int) else 1) else None,
        changed,
        {key: value for key, value in figures.items() if isinstance(value, int | float)},
        heldout,
        (folder / "evaluation.json").is_file(),
        stamp(folder / "checkpoints" / "best") is not None,
    )


def _changed(folder: Path) -> float:
    """Return when a run last wrote, seconds since 1970."""
    found = [stamp(folder / file) for file in ("metrics.jsonl", "episodes.jsonl", "config.yaml")]
    return max((one.changed_ns / 1e9 for one in found if one is not None), default=0.0)


def _yaml(file: Path) -> Row:
    try:
        text = file.read_bytes()[:MAX_YAML_BYTES].decode("utf-8", "replace")
        value = yaml.load(text, Loader)
    except (OSError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _object(file: Path) -> Row:
    try:
        return read_object(file)
    except (OSError, ValueError):
        return {}
