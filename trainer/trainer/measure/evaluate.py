"""`psuedoptimal evaluate RUN [RUN...]`: held-out tasks, beside senders that were never trained.

Every sender goes through the same decoder and the same sandbox. An outage is an error,
never a failed task: without every verdict nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from shared.clients import run
from shared.errors import NoAnswer, RoomError
from shared.starting import load
from trainer.channels.text.exchange import Exchange, TaskRefused, introduced
from trainer.cli_runs import add_unsaved
from trainer.cli_verbs import add_runs, positive
from trainer.config import ConfigError
from trainer.config_text import TextConfig
from trainer.measure.evaluation_file import command_line, differences, file_name, services_of, settings_of
from trainer.measure.folder import EVALUATION, RunFolder, checkpoint_folder, checkpoint_name, read_run
from trainer.measure.record import Message, Record, Sender
from trainer.measure.tables import Row, as_text, by_family, by_part, finite, median_rows, row_of
from trainer.pace import Pace, told_where, with_notes
from trainer.runs import Run
from trainer.supervise import services
from trainer.tasks.sources import SPLITS, load_tasks
from trainer.tasks.task import Task

STUDENT = "trainer.channels.text.student"
EXAMPLE = """\
Without flags that change what is measured, RUN/evaluation.json is written and RUN/summary.json brought up to
date: best weights, all of the run's own test tasks, with baselines. Any other evaluation goes to a file that
says what is different (RUN/evaluation-checkpoint-last-validation-n60.json), and `psuedoptimal report
--evaluation` shows it. The same flags again replace that file.

examples, after `psuedoptimal demo`:
  psuedoptimal evaluate runs/demo-*-seed1
  psuedoptimal evaluate runs/demo-*-seed* --split validation --n 60 --json
  psuedoptimal evaluate runs/demo-*-seed1 --checkpoint last --no-baselines"""


async def evaluate_messages(
    tasks: Sequence[Task], messages: Sequence[Message], exchange: Exchange
) -> list[Record]:
    """Send each message through decoder and judge. A refused one is not sent: it has failed already.

    messages  [B] one per task, in the order of the tasks
    returns   records [B]
    raises    RoomError if a service gives no answer; TaskRefused; ValueError if the counts differ
    """
    if len(tasks) != len(messages):
        raise ValueError(f"{len(messages)} messages for {len(tasks)} tasks; send one per task")
    asked = [place for place, message in enumerate(messages) if not message.refused]
    answer = await exchange.outcomes([tasks[i] for i in asked], [messages[i].text for i in asked])
    came = dict(zip(asked, zip(answer.programs, answer.findings, strict=True), strict=True))
    records = []
    for place, (task, message) in enumerate(zip(tasks, messages, strict=True)):
        about = (task.task_id, task.family, message.text, message.tokens, message.refused)
        if place in came:
            program, finding = came[place]
            records.append(Record(*about, program, finding.outcome, finding.assurance))
        else:
            records.append(Record(*about, "", message.refused, ""))
    return records


@dataclass(frozen=True)
class Measured:
    """What a set of senders came to: rows and records in the senders' order, who answered, seconds."""

    rows: list[Row]
    records: dict[str, list[Record]]
    decoder: dict[str, Any]
    sandbox: dict[str, Any]
    seconds: float


async def measure(
    tasks: Sequence[Task], senders: Sequence[Sender], reference_tokens: dict[str, int], config: TextConfig
) -> Measured:
    """Measure each sender on the same tasks; the others are compared with the one of kind "untrained".

    reference_tokens  by task id, the reference code's tokens under the student's tokenizer
    config            where the services are, and what a program may use
    raises            RoomError if a service gives no answer
    """
    start, records, pace = time.monotonic(), {}, Pace("senders", len(senders))
    async with Exchange(config.model_copy(update={"generator_temperature": 0.0})) as exchange:
        for sender in senders:
            found = records[sender.name] = await evaluate_messages(tasks, sender.messages, exchange)
            pace.done += 1
            passed = f"{sum(r.passed for r in found)} of {len(tasks)} passed"
            print(f"  {sender.name}: {passed}{pace.left()}", file=sys.stderr)
        who = await exchange.identities()
    first = next((s.messages for s in senders if s.kind == "untrained"), None)
    before = {t.task_id: m.tokens for t, m in zip(tasks, first, strict=True)} if first else None
    rows = [
        row_of(
            s.name,
            s.kind,
            records[s.name],
            untrained_tokens=before,
            reference_tokens=reference_tokens,
            notes=s.notes,
        )
        for s in senders
    ]
    decoder, sandbox = (identity.model_dump(mode="json") for identity in who)
    return Measured(rows, records, decoder, sandbox, time.monotonic() - start)


class Table(NamedTuple):
    """A run's rows, and the fingerprint of the tasks they are of."""

    rows: list[Row]
    tasks: str


def evaluate_run(folder: RunFolder, config: TextConfig, args: argparse.Namespace) -> Table:
    """Evaluate one run and write what was found; the run's main evaluation also into its summary.json.

    config   the run's own, with the services' URLs in it
    raises   RoomError, ConfigError, FileNotFoundError, ValueError: nothing has been written then
    """
    from trainer.measure.senders import senders_of

    weights = checkpoint_name(checkpoint_folder(folder.path, args.checkpoint))
    own, config = config, with_tasks(config, args)
    tasks = load_tasks(config, args.split)
    print(f"{folder.name}, {weights}: {len(tasks)} {args.split} tasks of {config.dataset}", file=sys.stderr)
    said = senders_of(folder.path, config, args.checkpoint, tasks, args.baselines)
    measured = run(measure(tasks, said.senders, said.reference_tokens, config))
    about = {
        task.task_id: {"text": task.text, "signature": task.signature, "reference": task.reference}
        for task in tasks
    }
    written = {
        "run": folder.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(sys.argv[1:], args.unsaved),
        "services": {room: services_of(room, args) for room in ("decoder", "sandbox")},
        "checkpoint": said.checkpoint,
        "tasks": {
            "source": config.dataset,
            "split": args.split,
            "n": len(tasks),
            "sha256": fingerprint(tasks),
            "items": about,
        },
        "seconds": round(measured.seconds, 1),
        "decoder": measured.decoder,
        "sandbox": measured.sandbox,
        "rows": [row.as_json() for row in measured.rows],
        "families": {name: _families(records) for name, records in measured.records.items()},
        "language": said.language,
        "records": {name: [r._asdict() for r in records] for name, records in measured.records.items()},
    }
    out, name = Run(folder.path), file_name(differences(folder, own, config, args, measured.decoder))
    print(out.write_text(name, json.dumps(finite(written), indent=1) + "\n"), file=sys.stderr)
    if name == EVALUATION and folder.summary:  # A run without one is not finished, and is not to look it.
        summary = with_heldout(folder, config, measured.rows[0])
        out.write_text("summary.json", json.dumps(finite(summary), indent=2) + "\n")
    return Table(measured.rows, fingerprint(tasks))


def with_tasks(config: TextConfig, args: argparse.Namespace) -> TextConfig:
    """Return the config with the tasks the command line asks for in place of the run's own."""
    update: dict[str, Any] = {}
    if args.tasks:
        name, _, path = args.tasks.partition(":")
        update["dataset"] = path or name
    if args.n:
        update |= dict.fromkeys(("heldout_tasks", "validation_tasks", "train_tasks"), args.n)
    return config.model_copy(update=update)


def with_heldout(folder: RunFolder, config: TextConfig, student: Row) -> dict[str, Any]:
    """Return the run's summary with the held-out figures of its student."""
    untrained, reference = student.compression_vs_untrained, student.compression_vs_reference
    heldout = {
        "n": student.n,
        "pass_rate": student.pass_rate.value,
        "tokens_per_message": student.tokens.value,
        "compression_vs_untrained": untrained and untrained.value,
        "compression_vs_reference": reference and reference.value,
    }
    return {"channel": "text", "seed": config.seed, **folder.summary, "heldout": heldout}


def fingerprint(tasks: Sequence[Task]) -> str:
    """Return a hash over the tasks in order: two evaluations with the same one are of the same tasks."""
    return hashlib.sha256(json.dumps([list(task) for task in tasks]).encode()).hexdigest()


def _families(records: Sequence[Record]) -> dict[str, Any]:
    """Return the figures by whole family and by its parts."""
    groups = {"family": by_family(records), "part": by_part(records)}
    return {
        kind: [
            {"name": f.name, "n": f.n, "pass_rate": f.pass_rate._asdict(), "tokens": f.tokens} for f in found
        ]
        for kind, found in groups.items()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal evaluate`."""
    add = parser.add_argument
    add_runs(parser, "run folder; several (seeds) also give their median")
    add("--checkpoint", default="best", metavar="best|last|N", help="which weights [best, else the last]")
    add("--tasks", metavar="starter|mbpp[:PATH]", help="tasks to measure on [the run's own data set]")
    add("--split", default="test", choices=SPLITS, help="which of them [test]")
    add("--n", type=positive, metavar="N", help="how many [the run's heldout_tasks]")
    add(
        "--decoder-url",
        "--decoder_url",
        action="append",
        metavar="URL",
        help="a decoder service; else one is started",
    )
    add(
        "--sandbox-url",
        "--sandbox_url",
        action="append",
        metavar="URL",
        help="a sandbox service; else one is started",
    )
    add("--decoder-token-file", type=Path, metavar="PATH", help="file with the decoder's bearer token")
    add("--sandbox-token-file", type=Path, metavar="PATH", help="file with the sandbox's bearer token")
    add(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the untrained senders too [yes]",
    )
    add("--json", action="store_true", help="print the tables as JSON")
    add_unsaved(parser, "decoder_url", "sandbox_url")
    parser.epilog, parser.formatter_class = EXAMPLE, argparse.RawDescriptionHelpFormatter


def command(args: argparse.Namespace) -> int:
    """Evaluate and print; exit 1 if there was no verdict for every program, 2 if the request was wrong."""
    tables: list[Table] = []
    try:
        with told_where(lambda: _left(args.runs, len(tables))):
            for path in args.runs:
                tables.append(_evaluated(path, args))
        return _print_tables(args, tables)
    except (NoAnswer, TaskRefused) as error:
        said = f"no verdict, so nothing was written: {with_notes(error)}"
        print(f"psuedoptimal evaluate: {said}", file=sys.stderr)
        return 1
    except (ConfigError, RoomError, ValueError, FileNotFoundError) as error:
        print(f"psuedoptimal evaluate: {error}", file=sys.stderr)
        return 2


def _left(runs: Sequence[Path], done: int) -> str:
    """Return which runs are evaluated, and the command that does the rest; each is written whole or not."""
    left_out = {str(run) for run in runs[:done]}
    again = command_line([word for word in sys.argv[1:] if word not in left_out])
    return f"{done} of {len(runs)} runs are evaluated; go on with: {again}"


def _evaluated(path: Path, args: argparse.Namespace) -> Table:
    """Evaluate one run with the given services, or with its own, started for it."""
    folder = read_run(path, episodes=False)
    config = settings_of(path, args)
    with services(
        path / "logs", config.generator_model, config.decoder_url, config.sandbox_url,
        meanwhile=STUDENT,
    ) as urls:  # fmt: skip
        located = config.model_copy(update={"decoder_url": urls[0], "sandbox_url": urls[1]})
        introduced(located)
        load(STUDENT)
        return evaluate_run(folder, located, args)


def _print_tables(args: argparse.Namespace, tables: Sequence[Table]) -> int:
    """Print each run's table, and the median where there are several on the same tasks."""
    middle: list[Row] = []
    if other := next((p for p, t in zip(args.runs, tables, strict=True) if t.tasks != tables[0].tasks), None):
        why = f"{args.runs[0]} and {other} were measured on different tasks; give --n, or --tasks"
        print(f"no median: {why}", file=sys.stderr)
    elif len(tables) > 1:
        middle = median_rows([table.rows for table in tables])
    if args.json:
        found: dict[str, Any] = {
            str(p): [row.as_json() for row in table.rows] for p, table in zip(args.runs, tables, strict=True)
        }
        print(json.dumps(finite({"runs": found, "median": [row.as_json() for row in middle]}), indent=1))
        return 0
    for path, table in zip(args.runs, tables, strict=True):
        print(f"\n{path}\n{as_text(table.rows)}")
    if middle:
        print(f"\nmedian over {len(tables)} runs\n{as_text(middle, spread='range')}")
    return 0
