"""`psuedoptimal evaluate program CODER...`: held-out sequences and corpora, beside codes without learning.

An outage is an error, never a failed program: without every verdict nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from trainer.channels.program.environment import Rules
from trainer.channels.program.execution import Executor
from trainer.channels.program.program import Program
from trainer.cli_program import at_least_one, executor_of, try_place
from trainer.config import ConfigError
from trainer.config_program import CHUNK, STARTER
from trainer.measure.evaluation_file import command_line
from trainer.measure.programs import Figures, baselines, figures, padded
from trainer.measure.programs_answers import judge_answers, read_answers
from trainer.pace import Pace, told_where
from trainer.runs import Run
from trainer.tasks.sequences import generate
from trainer.tasks.sequences_files import read_sequences
from trainer.tasks.sequences_load import DATA_SEED
from trainer.tasks.sequences_shorten import shorten

EXAMPLE = """examples, the first two after `psuedoptimal demo program`:
  psuedoptimal evaluate program runs/demo-program-*-seed1 --samples 1,16
  psuedoptimal evaluate program runs/demo-program-*-seed* --n 500 --json
  psuedoptimal evaluate program --data README.md --n 64
"""
LEGEND = """
The figures of a run folder replace those in its evaluation.json. Columns: solved, share of sequences whose
program makes exactly them; runs, share of programs that end with a list; bits/seq and rate (over raw bits),
everything paid for, what has no program joined and compressed; alone, the rate of sequences sent one by one;
bits/prog, mean over the right programs; vs gzip, their bits over gzip's; p@16, share whose first 16 bytes are
right."""
CORPORA = ("audio_16bit", "audio_8bit", "audio_mfcc", "dna", "synthetic", "text")


class Set(NamedTuple):
    """Sequences to measure on.

    truth  the generator's programs, as written and shortened; empty where they are not known
    """

    name: str
    sequences: list[tuple[int, ...]]
    truth: list[tuple[Program, Program]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal evaluate program`."""
    add = parser.add_argument
    add("channel", choices=["program"], help="which experiment")
    add("coders", nargs="*", metavar="CODER", help=f"run folders, model folders or hub names [{STARTER}]")
    add("--checkpoint", default="best", metavar="best|last|N", help="a run's weights [best, else the last]")
    add("--n", type=int, default=500, help="sequences of each set [500]")
    add("--max-length", default="64,128", help="held-out generated sequences of up to so many bytes [64,128]")
    add("--samples", default="1", help="programs tried for each sequence, by comma [1]; 1 is greedy")
    add("--max-tokens", type=int, default=512, help="tokens a program may have [512]")
    add("--corpora", type=Path, metavar="FOLDER", help=f"also the first chunks of {', '.join(CORPORA)}.bin")
    add("--data", type=Path, action="append", default=[], metavar="FILE", help="also a file's sequences")
    add(
        "--answers", type=Path, metavar="FILE", help="measure the programs in another model's answers instead"
    )
    add("--seed", type=int, default=0, help="of sampling [0]")
    add("--threads", type=int, default=0, help="torch threads on CPU; 0 leaves torch's choice [0]")
    add(
        "--sandbox-url",
        "--sandbox_url",
        action="append",
        metavar="URL",
        help="a sandbox; else one is started",
    )
    add("--sandbox-token-file", type=Path, metavar="PATH", help="file with the sandbox's bearer token")
    add("--unsaved", nargs="+", choices=["sandbox_url"], default=[], help="leave it out of what is saved")
    add("--output", type=Path, metavar="FILE", help="also write all figures as JSON there")
    add("--json", action="store_true", help="print them as JSON")
    parser.description = f"{parser.description or ''}\n{LEGEND}"
    parser.epilog = EXAMPLE


def command(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    started = time.monotonic()
    _check(args)
    with executor_of(args.sandbox_url, args.sandbox_token_file) as executor:
        if args.answers:
            rows = [_answers(args, executor)]
        else:
            sets = sets_of(args)
            coders = args.coders or [STARTER]
            each = sum(len(one.sequences) * n for one in sets for n in numbers("--samples", args.samples))
            pace = Pace("programs", each * len(coders))
            with told_where(lambda: "nothing was written"):
                rows = [row for coder in coders for row in _coder(args, coder, sets, executor, pace)]
        requests = executor.client.requests
    found = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(sys.argv[1:], args.unsaved), "seconds": time.monotonic() - started,
        "sandbox_requests": requests, "rows": rows,
    }  # fmt: skip
    written = json.dumps(found, indent=1)
    for folder in (Path(coder) for coder in args.coders):
        if (folder / "config.yaml").is_file():
            own = {**found, "rows": [row for row in rows if Path(row["coder"]) == folder]}
            Run(folder).write_text("evaluation.json", json.dumps(own, indent=1) + "\n")
            print(f"{folder / 'evaluation.json'}: these figures, in place of earlier ones", file=sys.stderr)
    if args.output:
        args.output.write_text(written + "\n", encoding="utf-8")
    print(written if args.json else as_text(rows))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError for what would be found wrong only after the work, or do none."""
    for flag in ("n", "max_tokens"):
        at_least_one(args, flag)
    numbers("--samples", args.samples)
    if args.answers and (args.coders or args.data or args.corpora):
        raise ConfigError(
            "--answers has sequences and programs of its own: leave out CODER, --data and --corpora"
        )
    if args.output and args.output.is_dir():
        raise ConfigError(f"--output {args.output}: is a folder; give a file")
    if args.output and not args.output.exists():  # What is there is written to, not replaced.
        try_place(args.output)


def sets_of(args: argparse.Namespace) -> list[Set]:
    """Return the sets that the command line asks for. Raises ConfigError."""
    found = []
    for limit in numbers("--max-length", args.max_length):
        pairs = generate("test", args.n, DATA_SEED, max_length=limit)
        truth = [(pair.program, shorten(pair.program)) for pair in pairs]
        found.append(Set(f"generated, up to {limit}", [pair.sequence for pair in pairs], truth))
    files = list(args.data)
    if args.corpora:
        files += [args.corpora / f"{name}.bin" for name in CORPORA]
    stems = Counter(file.stem for file in files)
    for file in dict.fromkeys(files):
        rows = read_sequences(file, chunk=CHUNK, limit=args.n)
        name = file.stem if stems[file.stem] == 1 else str(file)
        found.append(Set(name, [row.sequence for row in rows], []))
    return found


def _coder(
    args: argparse.Namespace, coder: str, sets: Sequence[Set], executor: Executor, pace: Pace
) -> list[dict[str, Any]]:
    from trainer.channels.program.search import search
    from trainer.measure.programs_coders import load_coder

    policy, rows = load_coder(coder, args.checkpoint, threads=args.threads), []
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    for one in sets:
        for samples in numbers("--samples", args.samples):
            found = search(
                policy, one.sequences, executor, Rules(), samples=samples, max_tokens=args.max_tokens,
                seed=args.seed,
            ).best  # fmt: skip
            pace.done += len(one.sequences) * samples
            measured = figures(one.sequences, found)
            each = {"programs": [(r.bits, r.solved) for r in found]}
            rows.append(_row(coder, one, samples, measured) | each)
            print(
                f"  {coder}, {one.name}, N = {samples}: solved {measured.accuracy:.3f}  "
                f"rate {measured.compression_rate:.3f}{pace.left()}", file=sys.stderr,
            )  # fmt: skip
    return rows


def _answers(args: argparse.Namespace, executor: Executor) -> dict[str, Any]:
    answers = read_answers(args.answers)
    found = judge_answers(answers, executor, Rules())
    one = Set(args.answers.stem, [answer.sequence for answer in answers], [])
    return _row(str(args.answers), one, 1, figures(one.sequences, found))


def _row(coder: str, one: Set, samples: int, measured: Figures) -> dict[str, Any]:
    return {
        "coder": coder, "set": one.name, "samples": samples, "figures": measured.heldout,
        "baselines": [b._asdict() for b in baselines(one.sequences, one.truth)],
    }  # fmt: skip


def numbers(flag: str, text: str) -> list[int]:
    """Return whole numbers from 1, as a flag has them by comma. Raises ConfigError."""
    try:
        found = [int(part) for part in str(text).split(",") if part]
    except ValueError as error:
        raise ConfigError(f"{flag} {text!r}: give whole numbers by comma, e.g. 1,16") from error
    if not found or any(number < 1 for number in found):
        raise ConfigError(f"{flag} {text!r}: give numbers from 1")
    return found


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables for a person: one for each set, the coders first, then the baselines."""
    lines: list[str] = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        width = max(40, *(len(_label(row)) + 1 for row in own))
        lines += ["", f"{name}: {own[0]['figures']['n']} sequences", _head(width)]
        lines += [_line(row, width) for row in own]
        for b in own[0]["baselines"]:
            lines.append(
                f"{b['name']:<{width}}{'':>8}{'':>8}{b['bits_per_sequence']:>10.1f}{b['compression_rate']:>8.3f}"
            )
    return "\n".join(lines[1:])


def _head(width: int) -> str:
    prefixes = "".join(f"{f'p@{k}':>7}" for k in (16, 32, 64, 128))
    names = f"{'':<{width}}{'solved':>8}{'runs':>8}{'bits/seq':>10}{'rate':>8}{'alone':>8}"
    return names + f"{'bits/prog':>11}{'vs gzip':>9}" + prefixes


def _label(row: dict[str, Any]) -> str:
    return f"{Path(row['coder']).name}, N = {row['samples']}"


def _line(row: dict[str, Any], width: int) -> str:
    f = row["figures"]
    return (
        f"{_label(row):<{width}}{f['accuracy']:>8.3f}{f['executable']:>8.3f}{f['bits_per_sequence']:>10.1f}"
        f"{f['compression_rate']:>8.3f}{f['rate_alone']:>8.3f}{padded(f['bits_per_program'], '11.1f')}"
        + padded(f["precision"], "9.3f")
        + "".join(f"{value:>7.3f}" for value in f["prefix_accuracy"].values())
    )
