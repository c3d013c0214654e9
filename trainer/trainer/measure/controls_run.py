"""`psuedoptimal controls RUN`: is it a code or a trick? Writes the run's controls.json, prints tables."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from shared.errors import NoAnswer, RoomError
from trainer.channels.text.exchange import TaskRefused
from trainer.config import ConfigError
from trainer.config_text import TextConfig
from trainer.measure.evaluate import fingerprint, with_tasks
from trainer.measure.evaluation_file import CONTROLS, file_name, settings_of, weights_of
from trainer.measure.folder import checkpoint_folder, checkpoint_name, read_object, read_run
from trainer.measure.rates_read import words_of
from trainer.measure.record import Record
from trainer.measure.tables import as_text as rows_as_text
from trainer.measure.tables import finite, row_from_json
from trainer.pace import told_where, with_notes
from trainer.runs import Run
from trainer.supervise import services
from trainer.tasks.sources import SPLITS, load_tasks

EXAMPLE = """examples, after `psuedoptimal demo`:
  psuedoptimal controls runs/demo-*-seed1
  psuedoptimal controls runs/demo-*-seed1 --only phrasebook --json
  python -m trainer.starter.build --only second --seed 2 --second-out second-generator    # half an hour
  psuedoptimal controls runs/demo-*-seed1 --other-decoder second-generator
"""
PARTS = ("names", "tests", "prefixes", "interventions", "transfer", "phrasebook")
# Under which key controls.json has a part, where that is not its name.
KEPT_AS = {"prefixes": "prefix"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal controls`."""
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder of the text channel")
    add("--checkpoint", default="best", metavar="best|last|N", help="which weights [best, else the last]")
    add("--tasks", metavar="starter|mbpp[:PATH]", help="tasks to measure on [the run's own data set]")
    add("--split", default="test", choices=SPLITS, help="which of them [test]")
    add("--n", type=int, metavar="N", help="how many [the run's heldout_tasks]")
    add("--only", action="append", choices=PARTS, help="this part beside the controls; may be repeated [all]")
    add("--interventions", type=int, default=120, metavar="N", help="messages changed token by token [120]")
    add(
        "--phrases",
        type=int,
        default=600,
        metavar="N",
        help="training tasks the phrasebook is made from [600]",
    )
    add("--symbols", type=int, default=20, metavar="N", help="symbols a compositional code has at least [20]")
    add("--other-decoder", type=Path, action="append", default=[], metavar="FOLDER",
        help="another generator to read the same messages; may be repeated")  # fmt: skip
    add("--decoder-url", action="append", metavar="URL", help="a decoder service; else one is started")
    add("--sandbox-url", action="append", metavar="URL", help="a sandbox service; else one is started")
    add("--decoder-token-file", type=Path, metavar="PATH", help="file with the decoder's bearer token")
    add("--sandbox-token-file", type=Path, metavar="PATH", help="file with the sandbox's bearer token")
    add("--json", action="store_true", help="print everything as JSON")
    parser.epilog = EXAMPLE


def command(args: argparse.Namespace) -> int:
    """Examine one run; 1 if there was no verdict for every program, 2 if the request was wrong."""
    try:
        for name in ("n", "interventions", "phrases", "symbols"):
            if getattr(args, name) is not None and getattr(args, name) < 1:
                raise ConfigError(f"--{name} {getattr(args, name)}: give a whole number from 1")
        found = examined(args)
    except (NoAnswer, TaskRefused) as error:
        print(f"psuedoptimal controls: no verdict: {with_notes(error)}", file=sys.stderr)
        return 1
    except (ConfigError, RoomError, ValueError, FileNotFoundError) as error:
        print(f"psuedoptimal controls: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if args.json else as_text(found))
    return 0


def examined(args: argparse.Namespace) -> dict[str, Any]:
    """Run every part that is asked for, with services of its own where none are given, and write the file."""
    folder = read_run(args.run, episodes=False)
    config = settings_of(args.run, args)
    logs, file = args.run / "logs", file_of(args, config)
    before, measured, written = read_object(args.run / file), dict[str, Any](), dict[str, Any]()

    def keep(found: dict[str, Any]) -> None:
        """Write what there is by now; parts not asked for stay, if measured on these tasks and weights."""
        measured.update(finite(found))
        weights = weights_of(before, folder.evaluation, measured["checkpoint"])
        same = before.get("tasks") == measured["tasks"] and weights == measured["checkpoint"]
        written.update({**before, **measured} if args.only and same else measured)
        Run(folder.path).write_text(file, json.dumps(written, indent=1) + "\n")

    wanted = [part for part in PARTS if part in (args.only or PARTS)]
    with (
        told_where(lambda: _left(args, file, wanted, measured)),
        services(logs, config.generator_model, config.decoder_url, config.sandbox_url) as urls,
    ):
        located = with_tasks(config.model_copy(update={"decoder_url": urls[0], "sandbox_url": urls[1]}), args)
        _measure(folder.path, located, args, wanted, logs, keep)
    return written


def _left(args: argparse.Namespace, file: str, wanted: Sequence[str], measured: dict[str, Any]) -> str:
    """Return where an examination left off, and the command that does the rest."""
    flags, rest = sys.argv[1:], [part for part in wanted if KEPT_AS.get(part, part) not in measured]
    given = {i + 1 for i, word in enumerate(flags) if word == "--only"}
    kept = [w for i, w in enumerate(flags) if i not in given and w.partition("=")[0] != "--only"]
    only = [word for part in rest for word in ("--only", part)]
    state = f"{args.run / file} has what was measured" if measured else "nothing was written yet"
    again = shlex.join(["psuedoptimal", *kept, *only]) if measured else shlex.join(["psuedoptimal", *flags])
    return f"{state}; go on with: {again}"


def file_of(args: argparse.Namespace, config: TextConfig) -> str:
    """Return the file the controls go to: controls.json, or one that says what differs from the run's."""
    said = [] if args.checkpoint == "best" else [f"checkpoint-{args.checkpoint}"]
    said += [args.tasks] if args.tasks else []
    said += [args.split] if args.split != "test" else []
    said += [f"n{args.n}"] if args.n and args.n != config.heldout_tasks else []
    return file_name(said, CONTROLS)


def _measure(
    folder: Path, config: TextConfig, args: argparse.Namespace, wanted: Sequence[str], logs: Path,
    keep: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """Measure the controls, and then part by part; `keep` is given what there is after each."""
    from trainer.channels.text.student import precision, quiet_libraries
    from trainer.measure import controls, controls_decoders, controls_phrasebook
    from trainer.measure.students import encode_tasks, load_student

    quiet_libraries()
    started = time.monotonic()
    tasks = load_tasks(config, args.split)
    checkpoint = checkpoint_folder(folder, args.checkpoint)
    student = load_student(checkpoint, base=config.student_source, precision=precision(config))
    most = config.max_completion_length
    spare = load_tasks(config.model_copy(update={"train_tasks": args.phrases}), "train")
    print(f"{folder.name}: {len(tasks)} {args.split} tasks of {config.dataset}", file=sys.stderr)
    said = encode_tasks(student, spare, max_new_tokens=most, told="messages to training tasks")
    messages = encode_tasks(student, tasks, max_new_tokens=most, told="messages to held-out tasks")
    words = words_of(read_run(folder, episodes=False))
    subject = controls.Subject(student, words, tasks, messages, said, config)
    print(f"part 1 of {len(wanted) + 1}: controls", file=sys.stderr)
    found: dict[str, Any] = {
        "run": folder.name, "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["psuedoptimal", *sys.argv[1:]]), "checkpoint": checkpoint_name(checkpoint),
        "tasks": {
            "source": config.dataset, "split": args.split, "n": len(tasks), "sha256": fingerprint(tasks),
        },
        "controls": controls.senders(subject),
    }  # fmt: skip
    records = [Record(**r) for r in found["controls"].pop("records")["student"]]
    work: dict[str, Callable[[], Any]] = {
        "names": lambda: controls.names(subject),
        "tests": lambda: controls.tests(subject, records),
        "prefixes": lambda: controls.prefixes(subject),
        "interventions": lambda: controls.interventions(subject, records, most=args.interventions),
        "transfer": lambda: controls.transfer(
            subject, records, controls_decoders.others(config, args.other_decoder, logs / "decoders"), logs
        ),
        "phrasebook": lambda: controls_phrasebook.make(subject, spare, said, records, wanted=args.symbols),
    }
    keep(found)
    for number, part in enumerate(wanted, 2):
        print(f"part {number} of {len(wanted) + 1}: {part}", file=sys.stderr)
        found[KEPT_AS.get(part, part)] = work[part]()
        keep({**found, "seconds": round(time.monotonic() - started, 1)})


# --- shown ------------------------------------------------------------------------------------------


def as_text(found: dict[str, Any]) -> str:
    """Return the tables for a terminal."""
    controls = found["controls"]
    clean = "every control passes" if controls["clean"] else "NOT every control passes"
    parts = [
        f"{found['run']}, {found['checkpoint']}: {found['tasks']['n']} {found['tasks']['split']} tasks",
        rows_as_text([row_from_json(row) for row in controls["rows"]]),
        f"{clean} at most {controls['level']:.0%}",
    ]
    if rows := [*found.get("names", []), *found.get("prefix", {}).get("steps", [])]:
        parts.append(_table(["message", "n", "pass rate", "95 %", "tokens"], [
            [r["name"], str(r["n"]), *_rate(r["pass_rate"]), f"{r['tokens']:.1f}"] for r in rows
        ]))  # fmt: skip
    if rows := found.get("tests", []):
        parts.append(_table(["tests never seen", "n", "pass", "95 %"], [
            [r["name"], str(r["n"]), *_rate(r["pass_rate"])] for r in rows
        ]))  # fmt: skip
    if changed := found.get("interventions"):
        title = f"one change in a message that passes ({changed['messages']} messages)"
        parts.append(_table([title, "n", "broken", "95 %"], [
            [k["kind"], str(k["n"]), *_rate(k["broken"])] for k in changed["kinds"]
        ]))  # fmt: skip
        needed = "–" if changed["needed"] is None else f"{changed['needed']:.0%}"
        parts.append(f"a message fails without {needed} of its tokens, one at a time")
        parts.append(_table(["token", "n", "broken without", "95 %"], [
            [s["text"], str(s["n"]), *_rate(s["deleted"])] for s in changed["symbols"][:25] if s["deleted"]
        ]))  # fmt: skip
    if rows := found.get("transfer", []):
        parts.append(_table(["decoder", "student", "95 %", "kept", "95 %", "reference", "shuffled"], [
            [r["decoder"], *_rate(r["student"]), *_rate(r["kept"]), _rate(r["reference"])[0],
             _rate(r["shuffled"])[0]] for r in rows
        ]))  # fmt: skip
    if book := found.get("phrasebook"):
        parts += _book(book)
    return "\n\n".join(parts)


def _book(book: dict[str, Any]) -> list[str]:
    rows = [
        [
            e["symbol"], e["piece"][:60], str(e["n"]), f"{e['confidence']:.2f}", *_rate(e["given"]),
            str(e["cases"]), *(_rate(e["breaks"]) if e["breaks"] else ("–", "–")),
            *("–" if e[k] is None else f"{e[k]:.2f}" for k in ("elsewhere", "by_others")),
        ]
        for e in book["entries"]
    ]  # fmt: skip
    head = ["symbol", "stands for", "n", "confidence", "given", "95 %", "cases", "deletion breaks it", "95 %",
            "breaks the rest", "others break it"]  # fmt: skip
    bits = (
        f"a symbol tells {book['aligned_bits']:.2f} bits of its piece; with the messages dealt to other "
        f"tasks {book['aligned_bits_shuffled']:.2f}"
    )
    return [_table(head, rows), bits, book["verdict"]]


def _rate(found: dict[str, float]) -> tuple[str, str]:
    if found["value"] is None:
        return "–", "–"
    return f"{found['value']:.3f}", f"{found['low']:.2f}–{found['high']:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "  ".join("-" * w for w in widths), *texts[1:]])
