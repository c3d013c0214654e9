"""`psuedoptimal archive|unarchive`: a file into programs and back. The sandbox executes every program."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shared.clients import run
from trainer.config import ConfigError, resolve
from trainer.config_program import CHUNK, STARTER, ProgramConfig
from trainer.pace import Pace, told_where
from trainer.supervise import services

if TYPE_CHECKING:
    from trainer.channels.program.archive import Opened
    from trainer.channels.program.execution import Executor

BATCH = 512
SUFFIX = ".psda"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb that the parser is for."""
    add = parser.add_argument
    add("file", type=Path, help="the file; it is left as it is")
    add("-o", "--output", type=Path, help=f"where to write [FILE{SUFFIX}, or FILE without that]")
    add("--force", action="store_true", help="replace what is there")
    add(
        "--sandbox-url",
        "--sandbox_url",
        action="append",
        metavar="URL",
        help="a sandbox; else one is started",
    )
    add("--sandbox-token-file", type=Path, metavar="PATH", help="file with the sandbox's bearer token")
    add("--json", action="store_true", help="print the figures as JSON")
    if parser.get_default("verb") == "archive":
        add("--coder", default=STARTER, help="run folder, model folder or hub name [starter]")
        add("--chunk", type=int, default=CHUNK, help=f"bytes of a chunk [{CHUNK}]")
        add("--samples", type=int, default=1, help="programs tried for each chunk [1]")
        add("--max-tokens", type=int, default=512, help="tokens a program may have [512]")
        parser.epilog = "example:\n  psuedoptimal archive README.md -o README.psda --samples 4"
    else:
        parser.epilog = (
            "example:\n  psuedoptimal archive README.md -o README.psda\n"
            "  psuedoptimal unarchive README.psda -o copy.md"
        )


def command(args: argparse.Namespace) -> int:
    """Do what the verb says. Returns 0; 1 for an archive that is none or is damaged."""
    from trainer.channels.program.archive import ArchiveError, read

    try:
        data = args.file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{args.file}: {error.strerror}; give a file that can be read") from error
    try:
        opened = read(data) if args.verb == "unarchive" else None
        out = _place(args)
        with told_where(lambda: f"{out} was not written"):
            return _unarchive(args, opened, out) if opened is not None else _archive(args, data, out)
    except ArchiveError as error:
        print(f"psuedoptimal: {args.file}: {error}", file=sys.stderr)
        return 1


def _place(args: argparse.Namespace) -> Path:
    """Return where to write. Raises ConfigError, before any work, if that cannot be."""
    out: Path = args.output or _default_output(args)
    try:
        if not out.exists():
            pass
        elif not args.force:
            raise ConfigError(f"{out}: is there already; give another -o, or --force")
        elif not out.is_file():
            raise ConfigError(f"{out}: is no regular file, which --force would replace; give another -o")
        elif out.samefile(args.file):
            raise ConfigError(f"{out}: is the file itself, which is left as it is; give another -o")
        out = out.resolve() if out.is_symlink() else out
    except OSError as error:
        raise ConfigError(f"{str(out)[:200]}: {error.strerror}; give another -o") from error
    try_place(out)
    return out


def try_place(out: Path) -> None:
    """Raise ConfigError if no file can be written there."""
    partial = _partial(out)
    try:
        with partial.open("xb"):
            pass
        partial.unlink()
        with suppress(FileNotFoundError):
            out.lstat()  # A name that is too long is an error here.
    except OSError as error:
        raise _unwritten(out, error) from error


def _partial(out: Path) -> Path:
    """Return a name beside it that is nobody's."""
    return out.with_name(f".{out.name}"[:40] + f".{secrets.token_hex(8)}.partial")


def _unwritten(out: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{str(out)[:200]}: {error.strerror}; give a place that can be written to")


def _default_output(args: argparse.Namespace) -> Path:
    file: Path = args.file
    if args.verb == "archive":
        return file.with_name(file.name + SUFFIX)
    if file.suffix != SUFFIX:
        raise ConfigError(f"{file}: does not end in {SUFFIX}; say where to write, with -o")
    return file.with_suffix("")


def _archive(args: argparse.Namespace, data: bytes, out: Path) -> int:
    for flag in ("chunk", "samples", "max_tokens"):
        at_least_one(args, flag)
    from trainer.channels.program.archive import make, read
    from trainer.channels.program.execution import Executor
    from trainer.tasks.sequences_files import chunks

    parts = chunks(data, args.chunk)
    with executor_of(args.sandbox_url, args.sandbox_token_file) as executor:
        programs = coded_by(args.coder, parts, executor, samples=args.samples, max_tokens=args.max_tokens)
        # Executed once more, by one that remembers nothing: what was luck is no program of the chunk.
        again = Executor(executor.client, executor.limits)
        made = make(data, args.chunk, sure(programs, parts, again))
        # What was written must give the file back, before anybody deletes it.
        if read(made.data).restore(lambda texts: _values(texts, again)) != data:
            raise AssertionError("an archive that passed its checks restores another file")
    _write(out, made.data)
    rate = len(made.data) / len(data) if data else None
    figures = {
        "file": str(out), "bytes": len(data), "archive_bytes": len(made.data), "rate": rate,
        "chunks": made.chunks, "programs": made.coded, "program_bits": made.program_bits,
        "rest_by": made.method, "rest_bytes": made.fallback_bytes,
    }  # fmt: skip
    if args.json:
        print(json.dumps(figures))
    else:
        print(
            f"{out}: {len(data)} -> {len(made.data)} bytes"
            + (f" ({rate:.3f})" if rate is not None else "")
            + f"; {made.coded} of {made.chunks} chunks are programs, the rest by {made.method}"
        )
    return 0


def coded_by(
    coder: str, parts: Sequence[tuple[int, ...]], executor: Executor, *, samples: int, max_tokens: int
) -> list[str | None]:
    """Return the program a coder found for each chunk, or None.

    coder   a run folder, or what --model_name may be
    raises  ConfigError, NoAnswer
    """
    if not parts:
        return []
    from trainer.channels.program.environment import Rules
    from trainer.channels.program.search import search
    from trainer.measure.programs_coders import load_coder

    policy, found = load_coder(coder), list[str | None]()
    distinct = list(dict.fromkeys(parts))
    pace = Pace("chunks", len(distinct))
    for start in range(0, len(distinct), BATCH):
        some = distinct[start : start + BATCH]
        best = search(policy, some, executor, Rules(), samples=samples, max_tokens=max_tokens).best
        found += [rollout.program if rollout.solved else None for rollout in best]
        pace.add(len(some))
    known = dict(zip(distinct, found, strict=True))
    return [known[part] for part in parts]


def sure(
    programs: Sequence[str | None], parts: Sequence[tuple[int, ...]], executor: Executor
) -> list[str | None]:
    """Return the programs without those that cannot be relied on to make their chunk, executed once more."""
    from trainer.channels.program.archive import lasting

    texts = list(dict.fromkeys(text for text in programs if text is not None and lasting(text)))
    values = dict(zip(texts, _values(texts, executor), strict=True))
    return [
        text if text is not None and values.get(text) == part else None
        for text, part in zip(programs, parts, strict=True)
    ]


def at_least_one(args: argparse.Namespace, flag: str) -> None:
    """Raise ConfigError if a flag's number is below 1."""
    if (value := getattr(args, flag)) < 1:
        raise ConfigError(f"--{flag.replace('_', '-')} {value}: give a whole number from 1")


def _unarchive(args: argparse.Namespace, opened: Opened, out: Path) -> int:
    if any(program is not None for program in opened.programs):
        with executor_of(args.sandbox_url, args.sandbox_token_file) as executor:
            restored = opened.restore(lambda texts: _values(texts, executor))
    else:
        restored = opened.restore(lambda texts: [])
    _write(out, restored)
    print(
        json.dumps({"file": str(out), "bytes": len(restored)})
        if args.json
        else f"{out}: {len(restored)} bytes"
    )
    return 0


def _values(texts: list[str], executor: Executor) -> list[tuple[int, ...] | None]:
    return [output.value for output in run(executor.run(texts))]


def _write(out: Path, data: bytes) -> None:
    partial = _partial(out)
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _unwritten(out, error) from error


@contextmanager
def executor_of(urls: list[str] | None, token_file: Path | None = None) -> Iterator[Executor]:
    """Give an executor on the sandbox at these URLs, or on one started for it."""
    from trainer.channels.program.execution import Executor
    from trainer.channels.program.search import connect

    config = resolve(ProgramConfig, [], {"sandbox_url": urls, "sandbox_token_file": token_file})
    with (
        tempfile.TemporaryDirectory(prefix="psuedoptimal-") as logs,
        services(Path(logs), None, ["http://127.0.0.1:9"], urls) as (_, found),
    ):
        yield Executor(connect(config.model_copy(update={"sandbox_url": found})), config.limits)
