"""The MBPP loader, on rows written here and, where they are, on the real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import ConfigError
from trainer.config_text import Data
from trainer.tasks.mbpp import called, signature, split_of, task_of
from trainer.tasks.rows import load_file
from trainer.tasks.sources import load_tasks


def row(**changes: Any) -> dict[str, Any]:
    return {
        "task_id": 601, "prompt": "Write a function to double.",
        "code": "import math\r\ndef twice(x):\r\n  return 2*x",
        "test_imports": ["import math"], "test_list": ["assert twice(2) == 4"], **changes,
    }  # fmt: skip


def test_splits_are_by_task_id() -> None:
    ids = [1, 10, 11, 510, 511, 600, 601, 974]
    assert [split_of(i) for i in ids] == ["prompt"] * 2 + ["test"] * 2 + ["validation"] * 2 + ["train"] * 2


def test_a_row_becomes_a_task_with_signature_and_setup_and_plain_line_ends() -> None:
    task = task_of(row())
    assert (task.task_id, task.entry_point, task.signature) == ("mbpp/601", "twice", "def twice(x):")
    assert task.reference == "import math\ndef twice(x):\n  return 2*x\n"
    assert (task.setup, task.tests) == ("import math", ("assert twice(2) == 4",))


def test_the_entry_point_is_what_the_tests_call_not_the_first_definition() -> None:
    code = "def helper(x): return x\ndef main(x): return helper(x)"
    assert called(["assert set(main(sorted([1]))) == {1}"], code) == "main"


def test_a_class_that_only_builds_the_arguments_is_not_the_entry_point() -> None:
    code = "class Pair(object):\n  def __init__(self, a, b): pass\ndef longest(pairs): return 1"
    assert called(["assert longest([Pair(1, 2), Pair(3, 4)]) == 1"], code) == "longest"


def test_a_signature_stands_on_one_line_without_decorator_or_body() -> None:
    code = "@cache\ndef f(a: int,\n      *rest, key=(1,\n 2), **more) -> int:\n    return 1"
    assert signature(code, "f") == "def f(a: int, *rest, key=(1, 2), **more) -> int:"


def test_a_row_of_something_else_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"test_list\n"):
        task_of({key: value for key, value in row().items() if key != "test_list"})
    with pytest.raises(ValueError, match="other"):
        task_of(row(test_list=["assert other(1) == 2"]))


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_local_file_may_be_a_list_or_lines(tmp_path: Path, form: str) -> None:
    rows = [row(task_id=603), row(task_id=602), row(task_id=5)]
    text = json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)) + "\n"
    file = tmp_path / f"own.{form}"
    file.write_text(text, encoding="utf-8")
    assert [task.task_id for task in load_file(file, "train")] == ["mbpp/602", "mbpp/603"]
    assert len(load_tasks(Data(dataset=str(file), train_tasks=1), "train")) == 1
    with pytest.raises(ConfigError, match="no tasks in its test split"):
        load_tasks(Data(dataset=str(file)), "test")


def test_an_unreadable_source_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset="):
        load_tasks(Data(dataset=str(tmp_path / "none.json")), "train")


@pytest.mark.parametrize(
    ("file", "counts"),
    [("sanitized-mbpp.json", [7, 257, 43, 120]), ("mbpp.jsonl", [10, 500, 90, 374])],
)
def test_the_real_sets_have_their_published_splits(data: Path, file: str, counts: list[int]) -> None:
    source = data / "mbpp" / file
    splits = ("prompt", "test", "validation", "train")
    assert [len(load_file(source, split)) for split in splits] == counts
    tasks = load_file(source, None)
    assert all(task.signature.startswith("def ") and task.entry_point in task.signature for task in tasks)
    assert not any("\r" in task.reference + task.text + task.setup for task in tasks)
