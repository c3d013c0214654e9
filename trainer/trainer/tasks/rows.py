"""Tasks from rows: our own, as `psuedoptimal tasks --json` writes them, or MBPP's. From a file or the hub.

One JSON object a line (.jsonl), or a list of them (.json):
    {"task_id": "own/1", "text": "Write a function to double a number.", "split": "train",
     "reference": "def twice(x):\n    return 2 * x\n", "tests": ["assert twice(2) == 4"]}
`task_id`, `text`, `reference` and `tests` are needed. `signature` and `entry_point` are read off the
reference where they are not given; `setup` is code the tests need, `family` what figures are grouped by.
`split` stands in every row or in none: then a sixth of the rows is for the test, a twelfth for validation, by
their ids.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.tasks.mbpp import called, lf, signature, split_of, task_of
from trainer.tasks.task import Task

NEEDED = "task_id, text, reference and tests"
# Of rows that name no split: one in so many. MBPP's authors gave more than half to the test.
TEST, VALIDATION = 6, 12


class TaskRow(BaseModel):
    """A row of our own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    task_id: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1)
    reference: str = Field(min_length=1)
    tests: list[str] = Field(min_length=1)
    signature: str = ""
    entry_point: str = ""
    setup: str = ""
    family: str = ""
    split: Literal["train", "validation", "test"] | None = None


class Placed(NamedTuple):
    """A task, where it came from, and its split: None where the row does not say."""

    where: str
    task: Task
    split: str | None
    of_mbpp: bool = False


def load_file(path: Path, split: str | None) -> list[Task]:
    """Return a file's tasks of one split in their order (MBPP's by their ids), or all with None.

    raises  OSError if it cannot be read; ValueError naming the line, the field and what is wrong
    """
    return of_split(placed(_rows(path)), split)


def placed(rows: Iterable[tuple[str, Any]]) -> list[Placed]:
    """Return the task of each row.

    rows    (where, row): the place is for errors
    raises  ValueError naming the place, the field and what is wrong
    """
    found: dict[str, Placed] = {}
    for where, row in rows:
        try:
            one = _placed(where, row)
        except ValidationError as error:
            raise ValueError(f"{where}: {_fault(row, error)}") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if (task_id := one.task.task_id) in found:
            raise ValueError(f"{where}: task_id={task_id!r} is there already, in {found[task_id].where}")
        found[task_id] = one
    return list(found.values())


def of_split(found: list[Placed], split: str | None) -> list[Task]:
    """Return the tasks of one split, or all with None. Raises ValueError if only some rows name theirs."""
    silent = [one for one in found if one.split is None]
    if silent and len(silent) < len(found):
        raise ValueError(
            f"{silent[0].where}: split: missing, and other rows have one; give it to all rows or to none"
        )
    if silent:
        found = _divided(found)
    if found and all(one.of_mbpp for one in found):
        found = sorted(found, key=lambda one: int(one.task.task_id.partition("/")[2]))
    return [one.task for one in found if split is None or one.split == split]


def _divided(found: list[Placed]) -> list[Placed]:
    """Split by the hash of the ids: the same rows are split alike in whatever order they stand."""
    ranked = sorted(found, key=lambda one: hashlib.sha256(one.task.task_id.encode()).digest())
    test, validation = -(-len(found) // TEST), -(-len(found) // VALIDATION)
    names = ["test"] * test + ["validation"] * validation + ["train"] * len(found)
    split = {one.task.task_id: name for one, name in zip(ranked, names, strict=False)}
    return [one._replace(split=split[one.task.task_id]) for one in found]


def _placed(where: str, row: Any) -> Placed:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with {NEEDED}, found {_kind(row)}")
    if "test_list" in row or "code" in row:
        task = task_of(row)
        return Placed(where, task, split_of(int(task.task_id.partition("/")[2])), of_mbpp=True)
    read = TaskRow.model_validate(row)
    reference, tests = lf(read.reference), tuple(lf(test).strip() for test in read.tests)
    entry_point = read.entry_point or called(tests, reference)
    task = Task(
        task_id=read.task_id, text=lf(read.text).strip(),
        signature=read.signature or signature(reference, entry_point), entry_point=entry_point,
        reference=reference, tests=tests, setup=lf(read.setup), family=read.family,
    )  # fmt: skip
    return Placed(where, task, read.split)


def _fault(row: dict[str, Any], error: ValidationError) -> str:
    """Return the first fault of a row: the field, what is wrong with it, and what was found."""
    item = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "missing":
            return f"{field}: missing; a row needs {NEEDED}, or MBPP's fields"
        case "extra_forbidden":
            near = difflib.get_close_matches(field, TaskRow.model_fields, n=1, cutoff=0.6)
            way_out = f"did you mean {near[0]}?" if near else f"known are {', '.join(TaskRow.model_fields)}"
            return f"{field}: no such field; {way_out}"
    message = str(item["msg"])
    return f"{field}: {message[:1].lower() + message[1:]}, found {_kind(item['input'])}"


def _kind(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return f"{shown[:60]}{'…' if len(shown) > 60 else ''} ({type(value).__name__})"


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Give the rows of a file, each with its place: a line, or an entry of a list."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error}") from error
    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from error
        yield from ((f"entry {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, row in json_lines(text):
        yield f"line {number}", row


def json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """Give the values of JSON lines, each with its line's number. Raises ValueError naming the line."""
    # Not splitlines: a string may hold other separators than the line feed.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: not JSON: {error}") from error
            yield number, row
