"""`psuedoptimal export RUN` and `psuedoptimal encode CODEC`: a trained student as a folder, and at work."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.given import stdin_lines
from trainer.measure.message_code import CodeError
from trainer.tasks.task import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb that the parser is for."""
    add = parser.add_argument
    if parser.get_default("verb") == "export":
        add("run", type=Path, metavar="RUN", help="a finished run of the text channel")
        add("--out", type=Path, required=True, metavar="FOLDER", help="folder to make")
        add("--checkpoint", default="best", metavar="best|last|N", help="which weights [best, else the last]")
        add("--merge", action="store_true", help="merge an adapter into its base: larger, needs nothing else")
        add("--json", action="store_true", help="print codec.json")
        parser.epilog = (
            "example, after `psuedoptimal demo`:\n  psuedoptimal export runs/demo-*-seed1 --out exported/demo"
        )
        return
    add("codec", type=Path, metavar="CODEC", help="folder that `export` made")
    add("text", nargs="?", help="the task in English; none reads stdin, one JSON object per line with `text` "
        "and `signature`")  # fmt: skip
    add("--signature", help="the line the function must start with, e.g. 'def f(n):'")
    add("--bits", action="store_true", help="print code words of 0 and 1 instead of text")
    add("--json", action="store_true", help="message, tokens and bits as JSON, one line a task")
    parser.epilog = (
        "examples, after `psuedoptimal export runs/demo-*-seed1 --out exported/demo`:\n"
        "  psuedoptimal encode exported/demo \\\n"
        "      'Write a function to find the sum of the odd numbers from 1 to n.' \\\n"
        "      --signature 'def solve(n):'\n"
        "  psuedoptimal tasks --split test -n 5 --json | psuedoptimal encode exported/demo --bits"
    )


def command(args: argparse.Namespace) -> int:
    """Do what the verb says; `encode` returns 1 if the student did not end a message."""
    return _export(args) if args.verb == "export" else _encode(args)


def _export(args: argparse.Namespace) -> int:
    from trainer.export import export

    try:
        found = export(args.run, args.out, which=args.checkpoint, merge=args.merge)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        size = sum(file.stat().st_size for file in args.out.iterdir()) / 1e6
        print(f"{args.out}: {found['kind']} weights of {found['run']}, {found['checkpoint']}, {size:.1f} MB")
    return 0


def _encode(args: argparse.Namespace) -> int:
    from trainer.export_codec import read_codec

    tasks = _tasks(args)
    codec = read_codec(args.codec)
    failed = False
    for message in codec.encode(tasks):
        try:
            bits = codec.to_bits(message.text)
        except CodeError as error:
            raise ConfigError(str(error)) from error
        if message.refused:
            failed = True
            print(f"psuedoptimal encode: {message.refused}: {message.text!r}", file=sys.stderr)
        if args.json:
            told = {
                "message": message.text,
                "tokens": message.tokens,
                "bits": bits,
                "refused": message.refused,
            }
            print(json.dumps(told, ensure_ascii=False))
        else:
            print(bits if args.bits else message.text)
    return int(failed)


def _tasks(args: argparse.Namespace) -> list[Task]:
    """Return the tasks to encode. Raises ConfigError for one that is not whole."""
    if args.text is not None:
        return [_task({"text": args.text, "signature": args.signature}, "--signature")]
    found = []
    for number, line in enumerate(stdin_lines(), 1):
        if line.strip():
            try:
                stored = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"stdin, line {number}: no JSON ({error}); one object a line") from error
            found.append(_task(stored, f"stdin, line {number}: signature"))
    if not found:
        raise ConfigError("no task; give its text and --signature, or JSON lines on stdin")
    return found


def _task(stored: Any, where: str) -> Task:
    text, signature = (stored.get(key) if isinstance(stored, dict) else None for key in ("text", "signature"))
    if (
        not isinstance(text, str)
        or not isinstance(signature, str)
        or not text.strip()
        or not signature.strip()
    ):
        raise ConfigError(f"{where}: a task needs `text` and `signature`, e.g. 'def f(n):'")
    return Task("", text, signature, "", "", ())


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add to `decode` what makes an exported student's messages readable."""
    add = parser.add_argument
    add("--codec", type=Path, metavar="CODEC", help="folder that `export` made: its decoder, or none")
    add("--bits", action="store_true", help="the messages are code words of --codec")
    add("--any-decoder", action="store_true", help="take a decoder the messages were not made for")


def decoding(args: argparse.Namespace, messages: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the codec of `decode`, if one was named, and the messages as text.

    raises  ConfigError for code words that are none
    """
    if args.codec is None:
        if args.bits:
            raise ConfigError("--bits: code words belong to a codec; name it with --codec")
        return None, list(messages)
    from trainer.export_codec import read_codec

    codec = read_codec(args.codec)
    if not args.bits:
        return codec, list(messages)
    try:
        return codec, [text for word in messages for text in codec.from_bits(word)]
    except CodeError as error:
        raise ConfigError(f"--bits: {error}") from error
