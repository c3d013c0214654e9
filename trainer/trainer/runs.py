"""The run folder: what a run writes, where, and how it is continued. Holds no model and imports no torch.

    runs/<name>/config.yaml      the resolved settings; `--config` reads them back, for a run of another name
                services.json    who decoded and who judged: ModelCard and Capabilities
                metrics.jsonl    one object per step
                episodes.jsonl   one object per message
                heldout.jsonl    one object per held-out message of every evaluation
                evaluations.jsonl  one object per evaluation
                checkpoints/     checkpoint-N to resume from, best to use
                summary.json     what the run came to
                run.lock         held by the process that writes the run; its id, for those who find it held

A line is written whole or not at all, and a resumed run first drops the lines of steps it will take again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config import ConfigError, Section, dump_yaml

COMPLETE = "complete.json"
LOCK = "run.lock"
CHECKPOINT = re.compile(r"checkpoint-\d+")
# What libraries say in place of an errno: safetensors (Rust), and torch.save (C++) when writes fall short.
DISK_FULL_SIGNS = ("No space left on device", "os error 28", "PytorchStreamWriter failed", "unexpected pos")
SCREENINGS = "screenings.jsonl"
STEPPED = ("metrics.jsonl", "episodes.jsonl", "heldout.jsonl", "evaluations.jsonl", SCREENINGS)


class DiskFull(OSError):
    """There is no room left; what was written before is whole."""


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one it came from, says that the disk is full; libraries hide the errno."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(sign in str(error) for sign in DISK_FULL_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


class NothingToLearn(ConfigError):
    """The run's own data and settings leave nothing to train on: it cannot go on, another one can be made."""


class Run:
    """One run folder. Only the main process of a run may write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    @property
    def best(self) -> Path:
        """The weights that won on the held-out front."""
        return self.checkpoints / "best"

    @classmethod
    def create(cls, root: Path, name: str | None, config: Section, *, prefix: str = "run") -> Run:
        """Make a new run folder and write its config.

        name    None makes one up from the prefix and the time
        config  what --config shall read back: without the run's own name, so that it starts another run
        raises  ConfigError if a run of that name exists, or the folder lies inside a run's
        """
        refuse_inside_run(root)
        folder = root / (name or f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            there = f"a run of that name; use `--resume {folder}`, or" if folder.is_dir() else "a file;"
            where = "(--name and --runs; --output_dir in the latent and the program channel)"
            raise ConfigError(f"{folder}: there is {there} give the new run another place {where}") from error
        run = cls(folder)
        run.checkpoints.mkdir()
        run.write_text("config.yaml", dump_yaml(config))
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Return an existing run. Raises ConfigError if the folder is none."""
        if not (folder / "config.yaml").is_file():
            raise ConfigError(
                f"{folder}: no run here (no config.yaml); `ls {folder.parent}` shows what there is"
            )
        return cls(folder)

    @property
    def is_blank(self) -> bool:
        """Whether nothing was recorded yet: no line, no checkpoint, nothing to resume."""
        return not any((self.folder / name).exists() for name in STEPPED) and not any(self._numbered())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from writing to this run. The system lets go when this process dies.

        raises  ConfigError naming the process that holds it
        """
        with (self.folder / LOCK).open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                raise ConfigError(
                    f"{self.folder}: {holder} is writing to this run; wait for its end, or stop it "
                    "(`kill -INT PID` leaves a checkpoint) and use --resume then"
                ) from error
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    # --- writing ---

    def write_text(self, name: str, text: str) -> Path:
        """Write a file whole: a reader sees the old one or the new one. Raises DiskFull."""
        path = self.folder / name
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            _explain(error, path)
            raise
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file whole. Raises DiskFull."""
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append one JSON line per row: all of them, or none. Raises DiskFull."""
        if rows:
            append_lines(self.folder / name, rows)

    # --- reading ---

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a .jsonl file; nothing if it is not there, and no torn last line."""
        path = self.folder / name
        if path.is_file():
            with path.open(encoding="utf-8") as lines:
                yield from (json.loads(line) for line in lines if line.endswith("\n"))

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value, or None if it is not there."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    # --- checkpoints ---

    def complete_checkpoints(self) -> list[Path]:
        """Return the checkpoints that were written to the end, oldest first."""
        return [path for path in self._numbered() if (path / COMPLETE).is_file()]

    def _numbered(self) -> list[Path]:
        found = [path for path in self.checkpoints.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
        return sorted(found, key=_step_of)

    def last_checkpoint(self, damage: Callable[[Path], str]) -> tuple[Path | None, dict[Path, str]]:
        """Return the newest undamaged checkpoint, and what is wrong with each one after it.

        damage  says what is wrong with a checkpoint; empty for nothing
        """
        damaged: dict[Path, str] = {}
        for folder in reversed(self.complete_checkpoints()):
            reason = damage(folder)
            if not reason:
                return folder, damaged
            damaged[folder] = reason
        return None, damaged

    def rewind(self, damage: Callable[[Path], str] = lambda _: "") -> Path | None:
        """Prepare to resume: put damaged checkpoints aside, drop half-written ones, and the lines of steps
        after the one that is gone on from.

        damage   as of last_checkpoint
        returns  the checkpoint to resume from, or None to start over
        raises   ConfigError, with nothing changed, if all checkpoints are damaged or a record is
        """
        chosen, damaged = self.last_checkpoint(damage)
        if damaged and chosen is None:
            raise ConfigError(
                f"{next(iter(damaged.values()))}, and there is no earlier checkpoint; put the file back, or "
                f"start a new run with --config {self.folder / 'config.yaml'}"
            )
        step = _step_of(chosen) if chosen else -1
        ends = {path: end_of(path, step) for name in STEPPED if (path := self.folder / name).is_file()}
        for path, end in ends.items():
            os.truncate(path, end)
        for folder in self._numbered():
            if folder in damaged:
                assert chosen is not None
                print(
                    f"{damaged[folder]}; going on from {chosen.name}, it is now {aside(folder)}",
                    file=sys.stderr,
                )
            elif not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)
        return chosen


def resume_command(channel: str, folder: Path, processes: int = 1) -> str:
    """Return the whole command that goes on with a run: after a resumed one, that command with its flags."""
    several = ["torchrun", "--nproc_per_node", str(processes), "-m", "trainer.cli"]
    resumes = any(word.partition("=")[0] == "--resume" for word in sys.argv)
    words = sys.argv[1:] if resumes else ["train", channel, "--resume", str(folder)]
    return shlex.join([*(several if processes > 1 else ["psuedoptimal"]), *words])


def refuse_inside_run(root: Path) -> None:
    """Raise ConfigError if a folder for run folders is itself a run's, or lies inside one."""
    for folder in (root.absolute(), *root.absolute().parents):
        if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
            raise ConfigError(
                f"{root}: this is a run's own folder, or inside one ({folder}); run folders do not nest, "
                f"give the folder above it ({folder.parent})"
            )


def aside(folder: Path) -> Path:
    """Rename what is damaged to `damaged-NAME`, in the place of an earlier one, and return that path."""
    new = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    return folder.rename(new)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def append_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows as JSON lines; a failed write leaves the file as it was. Raises DiskFull."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
    except OSError as error:
        # Where even this fails, the line stays torn: readers and `rewind` leave a torn last line out.
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        _explain(error, path)
        raise


def end_of(path: Path, step: int) -> int:
    """Return the bytes of a .jsonl file up to the lines of steps after `step`, or to a torn last line.

    raises  ConfigError naming a line that is no record; lines stand in the order of their steps
    """
    kept = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            try:
                found = int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path}, line {number}: not a record of a step: {line[:60]!r}; remove the line "
                    f"(`sed -i {number}d {path}`) and use --resume again"
                ) from error
            if found > step:
                break
            kept += len(line)
    return kept


def files_of(folder: Path) -> dict[str, int]:
    """Return the bytes of every file in a checkpoint but complete.json, by its path inside."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def mark_complete(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write what a whole checkpoint ends with: our own state, in the file that says what it is made of.

    checkpoint  the folder, with everything else already in it
    state       what our controllers need to go on, JSON
    """
    written = {**state, "files": files_of(checkpoint)}
    partial = checkpoint / f".{COMPLETE}.partial"
    partial.write_text(json.dumps(written), encoding="utf-8")
    partial.replace(checkpoint / COMPLETE)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state that mark_complete wrote."""
    state: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return {key: value for key, value in state.items() if key != "files"}


def _explain(error: OSError, path: Path) -> None:
    """Raise DiskFull from an error that says so; return from any other, which the caller raises as it is."""
    if is_disk_full(error):
        how = "the disk is full, or a quota reached; make room and go on with --resume"
        raise DiskFull(error.errno, how, str(path)) from error
