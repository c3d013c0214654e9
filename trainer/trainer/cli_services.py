"""`psuedoptimal serve|decode|judge`: run a service, or ask one a single thing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import get_args

from shared.clients import DecoderClient, SandboxClient, run
from shared.wire import Assurance, JudgeJob, Limits, Program, Verdict
from trainer.bearer import read_token
from trainer.cli_export import add_decoding, decoding
from trainer.config import ConfigError, service_url, validated
from trainer.config_text import Data
from trainer.given import request, stdin_lines
from trainer.supervise import command as service_command
from trainer.tasks.sources import SPLITS, load_tasks
from trainer.tasks.task import Task

DECODER_URL, SANDBOX_URL = "http://127.0.0.1:8001", "http://127.0.0.1:8002"
# A person waits: long enough for a service that is just coming up, and for a program that takes its time.
UNREACHABLE_S, DEADLINE_S = 2.0, 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb that the parser is for."""
    match parser.get_default("verb"):
        case "serve":
            parser.add_argument("room", choices=["decoder", "sandbox", "playground"])
            parser.add_argument("--port", type=int, help="port [8001 decoder, 8002 sandbox, 8003 playground]")
            parser.add_argument(
                "--model", help="decoder: model folder or hub name, `echo` for none [the starter]"
            )
            parser.epilog = (
                "Every other setting is an environment variable of the service (DECODER_*, SANDBOX_*, "
                "PLAYGROUND_*).\nThe playground starts a decoder and a sandbox of its own where none is.\n\n"
                "examples:\n  psuedoptimal serve sandbox --port 8002\n"
                "  psuedoptimal serve decoder --model echo --port 8001\n  psuedoptimal serve playground"
            )
        case "decode":
            parser.add_argument(
                "messages", nargs="*", metavar="MESSAGE", help="one or several; none reads stdin"
            )
            parser.add_argument(
                "--max-new-tokens", type=int, default=512, help="tokens a program may have [512]"
            )
            _add_common(parser, "decoder", DECODER_URL)
            add_decoding(parser)
            parser.description += " Several are told apart by a comment line in front of each program."
            parser.epilog = (
                "example:\n  psuedoptimal serve decoder &      # once; ready after some seconds\n"
                '  psuedoptimal decode "solve total nums % 2 != ** 2"\n'
                "after `psuedoptimal export runs/demo-*-seed1 --out exported/demo`:\n"
                "  psuedoptimal tasks -n 2 --json | psuedoptimal encode exported/demo --bits |\n"
                "      psuedoptimal decode --codec exported/demo --bits"
            )
        case _:
            parser.add_argument("program", nargs="?", type=Path, help="a Python file; none reads stdin")
            parser.add_argument(
                "--test", action="append", default=[], help="an assert statement; may be repeated"
            )
            parser.add_argument(
                "--task", metavar="ID", help="take the tests of this task, as `tasks` names it"
            )
            parser.add_argument("--dataset", default="starter", help="the data set of --task [starter]")
            parser.add_argument("--setup", default="", help="code the tests need, run before the program")
            parser.add_argument(
                "--min-assurance", choices=get_args(Assurance), default="rpc",
                help="weakest kind of verdict that counts: value, the judge compares a value; rpc, the judge "
                "runs the test and asks the program for its calls; in_sandbox, the test runs beside the "
                "program, which can forge it [rpc]",
            )  # fmt: skip
            _add_common(parser, "sandbox", SANDBOX_URL)
            parser.epilog = (
                "example:\n  psuedoptimal serve sandbox &      # once; ready after some seconds\n"
                "  echo 'def f(n): return n * 2' | psuedoptimal judge --test 'assert f(2) == 4'"
            )


def _add_common(parser: argparse.ArgumentParser, room: str, url: str) -> None:
    parser.add_argument(f"--{room}-url", dest="url", default=url, help=f"[{url}]")
    parser.add_argument("--token-file", type=Path, help="file with the service's bearer token")
    parser.add_argument("--json", action="store_true", help="the service's own answer, as JSON")


def command(args: argparse.Namespace) -> int:
    """Do what the verb says. `judge` returns 1 if a test did not pass."""
    match args.verb:
        case "serve":
            return serve(args.room, args.port, args.model)
        case "decode":
            return _decode(args)
        case _:
            return _judge(args)


def serve(room: str, port: int | None, model: str | None) -> int:
    """Become the service: this process is replaced by it. The playground is run beside what it needs."""
    if model and room != "decoder":
        raise ConfigError("--model is for the decoder; the sandbox has none")
    prefix = room.upper()
    if port is not None:
        os.environ[f"{prefix}_PORT"] = str(port)
    if model:
        from trainer.supervise import decoder_environment

        os.environ.update(decoder_environment(model))
    if room == "playground":
        from trainer.supervise import serve_page

        return serve_page(room, {"decoder": DECODER_URL, "sandbox": SANDBOX_URL})
    sys.stdout.flush()
    found = service_command(room)
    os.execv(found[0], found)


def _decode(args: argparse.Namespace) -> int:
    messages = args.messages or [line.rstrip("\n") for line in stdin_lines()]
    if not messages:
        raise ConfigError("no message; give one, or one per line on stdin")
    codec, messages = decoding(args, messages)

    async def ask() -> list[Program]:
        async with DecoderClient(
            service_url(args.url),
            token=read_token(args.token_file),
            deadline_s=DEADLINE_S,
            unreachable_s=UNREACHABLE_S,
        ) as decoder:
            if codec and not args.any_decoder:
                codec.check(await decoder.model())
            return await decoder.decode(messages, max_new_tokens=args.max_new_tokens)

    for number, (message, program) in enumerate(zip(messages, run(ask()), strict=True), 1):
        if args.json:
            print(json.dumps({"message": message, **program.model_dump()}, ensure_ascii=False))
            continue
        if len(messages) > 1:
            print(("\n" if number > 1 else "") + f"# {number}: {message!r}")
        print(program.text)
    return 0


def _judge(args: argparse.Namespace) -> int:
    try:
        program = args.program.read_text(encoding="utf-8") if args.program else "".join(stdin_lines())
    except FileNotFoundError as error:
        raise ConfigError(f"{args.program}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{args.program}: is no Python file in UTF-8: {why}") from error
    if not args.program and not program.strip():
        raise ConfigError("no program; name a Python file, or give its text on stdin")
    tests, setup = list(args.test), args.setup
    if args.task:
        task = _find(args.dataset, args.task)
        tests, setup = [*tests, *task.tests], f"{task.setup}\n{setup}".strip()
    if not tests:
        raise ConfigError("no test; give --test 'assert f(1) == 2' or --task ID")
    job = request(JudgeJob, program=program, tests=tests, setup=setup, limits=Limits())

    async def ask() -> list[Verdict]:
        async with SandboxClient(
            service_url(args.url),
            token=read_token(args.token_file),
            deadline_s=DEADLINE_S,
            unreachable_s=UNREACHABLE_S,
        ) as sandbox:
            return await sandbox.judge([job], min_assurance=args.min_assurance)

    verdict = run(ask())[0]
    if args.json:
        print(verdict.model_dump_json())
    else:
        print(f"{verdict.outcome}  (jail {verdict.jail}, assurance {verdict.assurance})")
        for test, result in zip(tests, verdict.tests, strict=True):
            print(
                f"  {result.outcome:<8}{test}" + (f"\n          {result.message}" if result.message else "")
            )
    return 0 if verdict.passed else 1


def _find(dataset: str, task_id: str) -> Task:
    for split in SPLITS:
        for task in load_tasks(validated(Data, {"dataset": dataset}), split):
            if task.task_id == task_id:
                return task
    raise ConfigError(
        f"--task {task_id}: not in {dataset}; `psuedoptimal tasks --dataset {dataset}` shows some"
    )
