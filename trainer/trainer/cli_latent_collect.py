"""`psuedoptimal collect hidden`: plans and their last-layer states from any model, by the decoder service.

The result is a data set that `train latent --hf_hidden_repo` takes. A run that was stopped goes on where it
was: what is collected lies in parts beside the output until all of it is there, with a note of how. Rows that
were collected otherwise never come together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.errors import InvalidRequest
from shared.wire_latents import Turn
from trainer.cli_verbs import positive
from trainer.config import ConfigError, resolve
from trainer.config_latent import STARTER, LatentConfig
from trainer.given import request
from trainer.measure.folder import read_object
from trainer.pace import Pace, told_where
from trainer.tasks.conversations import Conversation, read_conversations

PROMPT = "Please provide a general plan to solve this task. The task is: "
AT_A_TIME = 64
HOW = "how.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `psuedoptimal collect hidden`."""
    add = parser.add_argument
    add("what", choices=["hidden"], help="hidden states of plans")
    add("--teacher_model_name_or_path", "--teacher-model-name-or-path", default=STARTER,
        metavar="MODEL",
        help="whose states; hub name, folder or `starter` [starter]")  # fmt: skip
    add("--data_path", "--data-path", default=STARTER, help="conversations, or `starter` [starter]")
    add("--output", type=Path, required=True, help="folder of the data set")
    add("--plans", choices=["write", "data"], default=None,
        help="write: the model does; data: the rows' own `plan` [starter: data, else write]")  # fmt: skip
    add("--prompt", default=PROMPT, help="in front of the task, for plans that are written")
    add("--layout", choices=["plain", "chat"], default="chat", help="how the model reads it [chat]")
    add("--at", choices=["predicting", "token"], default="predicting",
        help="states that predict the plan's tokens, or those at the tokens [predicting]")  # fmt: skip
    add("--max-new-tokens", type=positive, default=1500, help="tokens of a written plan [1500]")
    add("--temperature", type=float, default=0.7, help="of written plans [0.7]")
    add("--top-p", type=float, default=0.9, help="of written plans [0.9]")
    add("--seed", type=int, default=42, help="of written plans [42]")
    add("--train-tasks", type=positive, default=4000, help="starter: training tasks [4000]")
    add("--validation-tasks", type=positive, default=64, help="starter: validation tasks [64]")
    add("--heldout-tasks", type=positive, default=240, help="starter: test tasks [240]")
    add("--decoder-url", "--decoder_url", action="append", metavar="URL", help="else one is started")
    add("--json", action="store_true", help="print the folder and its number of rows as JSON")
    parser.epilog = "example:\n  psuedoptimal collect hidden --output hidden --train-tasks 100"


def command(args: argparse.Namespace) -> int:
    """Collect what is missing, and write the data set. Returns 0."""
    if args.output.exists():
        raise ConfigError(f"--output {args.output}: is there already; remove it, or give another folder")
    from trainer.channels.latent.teacher import open_teacher
    from trainer.cli_latent_train import located

    settings = {
        "teacher_model_name_or_path": args.teacher_model_name_or_path,
        "student_model_name_or_path": STARTER, "data_path": args.data_path, "kl_weight": 0, "align_weight": 0,
        "decoder_url": args.decoder_url,
    }  # fmt: skip
    config = resolve(LatentConfig, [], settings)
    rows = list(_rows(args))
    parts = args.output.with_name(args.output.name + ".parts")
    how, done = _how(args), _done(parts)
    if done:
        _refuse_other(parts, how)
    wanted = [row for row in rows if row.id not in done]
    print(f"{len(rows)} rows, {len(rows) - len(wanted)} collected already", file=sys.stderr)
    pace = Pace("rows collected", len(rows), len(rows) - len(wanted))
    with (
        told_where(lambda: f"{pace.done} of {len(rows)} rows are in {parts}; the same command goes on"),
        tempfile.TemporaryDirectory(prefix="psuedoptimal-") as logs,
        located(config, Path(logs), judged=False) as here,
    ):
        teacher = open_teacher(here)
        card = teacher.card()
        how["weights"] = card.weights_sha256 or card.name
        _begin(parts, how, anew=not done)
        for start in range(0, len(wanted), AT_A_TIME):
            batch = wanted[start : start + AT_A_TIME]
            _write(parts, len(list(parts.glob("*.parquet"))), batch, _collected(args, teacher, batch))
            pace.add(len(batch))
    _join(parts, args.output, [row.id for row in rows])
    print(json.dumps({"folder": str(args.output), "rows": len(rows)}) if args.json else args.output)
    return 0


def _rows(args: argparse.Namespace) -> Iterator[Conversation]:
    """Return the rows to collect for; with plans of their own where they are not to be written."""
    if args.data_path == STARTER:
        from trainer.tasks.conversations_starter import starter_conversations

        for split, count in (
            ("train", args.train_tasks),
            ("validation", args.validation_tasks),
            ("test", args.heldout_tasks),
        ):
            yield from starter_conversations(split, count)
        return
    yield from read_conversations(Path(args.data_path))


def _writes(args: argparse.Namespace) -> bool:
    """Whether the model writes the plans."""
    return str(args.plans or ("data" if args.data_path == STARTER else "write")) == "write"


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the teacher is asked beside the conversations."""
    drawn = ("max_new_tokens", "temperature", "top_p", "seed") if _writes(args) else ()
    return {name: getattr(args, name) for name in ("layout", "at", *drawn)}


def _how(args: argparse.Namespace) -> dict[str, Any]:
    """Return all that says what a row of this data becomes; how many there are is no part of it.

    raises  ConfigError if the data cannot be read
    """
    found = {name: getattr(args, name) for name in ("teacher_model_name_or_path", "data_path")}
    found |= {"plans": "write" if _writes(args) else "data", **_options(args)}
    if _writes(args):
        found["prompt"] = args.prompt
    if args.data_path != STARTER:
        found["data_sha256"] = hashlib.sha256(Path(args.data_path).read_bytes()).hexdigest()
    return found


def _begin(parts: Path, how: Mapping[str, Any], *, anew: bool) -> None:
    """Note how the rows are collected; with rows there already, raise ConfigError if they were otherwise."""
    if not anew:
        return _refuse_other(parts, how)
    parts.mkdir(parents=True, exist_ok=True)
    (parts / HOW).write_text(json.dumps(how), encoding="utf-8")


def _refuse_other(parts: Path, how: Mapping[str, Any]) -> None:
    """Raise ConfigError if the rows in these parts were collected otherwise."""
    there = read_object(parts / HOW)
    if other := [
        f"{name}={there.get(name)!r}, now {how[name]!r}" for name in how if there.get(name) != how[name]
    ]:
        raise ConfigError(
            f"{parts}: holds rows that were collected otherwise ({'; '.join(other)}); go on as they were "
            "begun, give another --output, or remove that folder to begin anew"
        )


def _collected(
    args: argparse.Namespace, teacher: Any, batch: Sequence[Conversation]
) -> list[tuple[Any, str]]:
    """Return states and plans of a batch; if it is refused, row by row, to name the one that is at fault."""
    written, conversations = _writes(args), []
    for row in batch:
        asked, where = list(row.asked), f"{args.data_path}, id {row.id!r}: "
        if written:
            asked[-1] = request(Turn, where, role="user", content=args.prompt + asked[-1].content)
        elif not row.plan:
            raise ConfigError(f"{where}has no plan; use --plans write")
        else:
            asked.append(request(Turn, where, role="assistant", content=row.plan))
        conversations.append(asked)
    try:
        found: list[tuple[Any, str]] = teacher.hidden(conversations, dtype="float16", **_options(args))
        return found
    except InvalidRequest as error:
        if len(batch) == 1:
            raise ConfigError(f"{args.data_path}, id {batch[0].id!r}: {error}") from error
        half = len(batch) // 2
        return [*_collected(args, teacher, batch[:half]), *_collected(args, teacher, batch[half:])]


def _write(parts: Path, number: int, batch: Sequence[Conversation], found: list[tuple[Any, str]]) -> None:
    """Write one part whole: a kill leaves it there or not there."""
    from datasets import Dataset, Features, List, Value, disable_progress_bars

    from trainer.channels.latent.vectors import from_wire

    disable_progress_bars()  # of each part's own; how far the whole is, is said elsewhere

    features = Features({
        "id": Value("string"), "task_id": Value("string"), "task": Value("string"), "plan": Value("string"),
        "hidden_state": List(List(Value("float16"))),
    })  # fmt: skip
    rows = {
        "id": [row.id for row in batch],
        "task_id": [row.id for row in batch],
        "task": [row.asked[-1].content for row in batch],
        "plan": [text for _, text in found],
        "hidden_state": [from_wire(states).half().numpy() for states, _ in found],
    }
    partial = parts / f".{number:06d}.partial"
    Dataset.from_dict(rows, features=features).to_parquet(str(partial))
    partial.rename(parts / f"{number:06d}.parquet")


def _done(parts: Path) -> set[str]:
    """Return the ids that are collected already."""
    from datasets import Dataset

    files = [str(file) for file in sorted(parts.glob("*.parquet"))]
    if not files:
        return set()
    with tempfile.TemporaryDirectory(prefix="psuedoptimal-") as cache:
        return set(Dataset.from_parquet(files, columns=["id"], cache_dir=cache)["id"])


def _join(parts: Path, output: Path, ids: Sequence[str]) -> None:
    """Make one data set of these rows of the parts, in this order, and remove the parts."""
    from datasets import Dataset

    with tempfile.TemporaryDirectory(prefix="psuedoptimal-") as cache:
        files = [str(file) for file in sorted(parts.glob("*.parquet"))]
        whole = Dataset.from_parquet(files, cache_dir=cache)
        places = {name: place for place, name in enumerate(whole["id"])}
        partial = output.with_name(f".{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        whole.select([places[name] for name in ids]).save_to_disk(str(partial))
        partial.rename(output)
    shutil.rmtree(parts)
