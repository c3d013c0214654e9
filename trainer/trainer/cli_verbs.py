"""What demos and sweeps share: verbs run as processes of their own, and what is left when one ends early."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import ENV_PREFIX, OTHER_VARIABLES, ConfigError
from trainer.runs import Run, resume_command


def add_runs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the run folders a verb takes, each once. `what` is their help."""
    parser.add_argument("runs", nargs="+", action=_EachOnce, type=Path, metavar="RUN", help=what)


def positive(text: str) -> int:
    """Read a count of at least 1; argparse says what was wrong."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number from 1")
    return int(text)


def check_file(flag: str, file: Path, made: Path | None = None) -> None:
    """Raise ConfigError if a file that a flag names is a folder, or has none.

    made  a folder that will be there when the file is written
    """
    if file.is_dir():
        raise ConfigError(f"{flag} {file}: is a folder; name a file in it, or another")
    if not file.parent.is_dir() and (made is None or file.parent.resolve() != made.resolve()):
        raise ConfigError(f"{flag} {file}: there is no folder {file.parent}; make it, or name another")


class _EachOnce(argparse.Action):
    """A list of folders in which none stands twice: the same run again is no second seed."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        """Keep the list. Raises ConfigError naming what is there more than once."""
        counted = Counter(Path(value).resolve() for value in values)
        twice = ", ".join(str(folder) for folder, times in counted.items() if times > 1)
        if twice:
            raise ConfigError(f"{twice}: given more than once; name each run once")
        setattr(namespace, self.dest, values)


class Trained(NamedTuple):
    """One student of a demo: its seed, and its number of vectors where the demo tries several."""

    seed: int
    vectors: int | None = None


def seeds_of(text: str) -> list[int]:
    """Take "1,2,3" apart. Raises ConfigError."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: give whole numbers by comma, e.g. 1,2,3") from error
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"--seeds {text!r}: each seed once, and none below 0")
    return seeds


def start_verb(
    argv: Sequence[str], *, quiet: bool = False, silent: bool = False, resolved: bool = False
) -> subprocess.Popen[bytes]:
    """Start one verb as a process of its own.

    quiet     its results go to stderr: they are a step on the way, not the demo's result
    silent    they go nowhere: the demo's result holds them
    resolved  its settings are whole, what PSUEDOPTIMAL_* variables say among them: it is given none of these
    """
    environment = {
        name: value for name, value in os.environ.items()
        if not resolved or not name.startswith(ENV_PREFIX) or name in OTHER_VARIABLES
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *argv], env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL if silent else sys.stderr if quiet else None,
    )  # fmt: skip


def run_verb(*argv: str, quiet: bool = False, resolved: bool = False) -> int:
    """Run one verb to its end; return its code. Ctrl-C reaches it through the terminal, and is waited for."""
    process = start_verb(argv, quiet=quiet, resolved=resolved)
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:
            process.terminate()
            process.wait()
            raise
        return code if code >= 0 else 128 - code


def terminated(*_: object) -> None:
    """SIGTERM: end the verb at hand, then the services."""
    raise SystemExit(143)


def tell_rest(
    channel: str, students: Mapping[Path, Trained], args: argparse.Namespace, settings: Sequence[str]
) -> None:
    """Say what is left of a demo that ended early, as commands.

    students  the run folder of each, in their order
    settings  flags for those that were not begun
    """
    begun = [folder for folder in students if folder.is_dir()]
    if not begun:
        return
    of_channel = [] if channel == "text" else [channel]
    left = [resume_command(channel, folder) for folder in begun if not (folder / "summary.json").is_file()]
    left += [
        shlex.join(["psuedoptimal", verb, *of_channel, *map(str, begun)]) for verb in ("evaluate", "report")
    ]
    rest: dict[int | None, list[str]] = {}
    for folder, student in students.items():
        if folder not in begun:
            rest.setdefault(student.vectors, []).append(str(student.seed))
    for vectors, seeds in rest.items():
        of_size = [] if vectors is None else ["--K", str(vectors)]
        place = ["--config", str(args.config), "--runs", str(args.runs)]
        words = ["demo", *of_channel, "--seeds", ",".join(seeds), *of_size, *place, *settings]
        left.append(shlex.join(["psuedoptimal", *words]))
    print("\n  ".join(["what is left of the demo:", *left]), file=sys.stderr)


def closing(folders: Sequence[Path], seconds: float) -> None:
    """Say how long each run and all of it took, where the reports are, and what shows the runs."""
    for folder in folders:
        found = Run(folder).read_json("summary.json")
        spent = sum(found["seconds"].values())
        print(f"{folder}: {spent:.0f} s; report: {folder / 'report.html'}", file=sys.stderr)
    root = folders[0].parent
    where = "" if root.resolve() == Path("runs").resolve() else f"PLAYGROUND_RUNS={shlex.quote(str(root))} "
    shows = f"`{where}psuedoptimal serve playground` shows the runs"
    print(f"all of it: {seconds:.0f} s; {shows}", file=sys.stderr)
