"""MBPP, sanitized and full, from the hub or a local JSON or JSON-lines file.

Example row (sanitized):
    {"task_id": 2, "prompt": "Write a function to find the shared elements from the given two lists.",
     "code": "def similar_elements(test_tup1, test_tup2): ...", "test_imports": [],
     "test_list": ["assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))", ...]}
The full set calls the prompt `text` and has `test_setup_code` in place of `test_imports`.
"""

from __future__ import annotations

import ast
import builtins
import json
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.tasks.sources import local
from trainer.tasks.task import Task

HUB = "google-research-datasets/mbpp"
# By task_id, as the data set's authors split it; the first ten are for few-shot prompts.
SPLIT_ENDS = (("prompt", 10), ("test", 510), ("validation", 600))


def split_of(task_id: int) -> str:
    """Return prompt, test, validation or train."""
    return next((name for name, end in SPLIT_ENDS if task_id <= end), "train")


def load_mbpp(source: str, config: str, split: str | None) -> list[Task]:
    """Return the tasks of one split in the order of their ids, or of all with None.

    source  `mbpp`, a hub name, or a local .json / .jsonl file
    config  sanitized or full; a local file is what it is
    raises  OSError if the source cannot be read, ValueError for a row that is no MBPP row
    """
    path = local(source)
    rows = _read(path) if path else _from_hub(HUB if source == "mbpp" else source, config)
    tasks = [task_of(row) for row in sorted(rows, key=lambda row: int(row["task_id"]))]
    return [task for task in tasks if split is None or split_of(int(task.task_id.split("/")[1])) == split]


def task_of(row: dict[str, Any]) -> Task:
    """Return one row as a task; line ends are normalised, the signature is read off the reference code.

    raises  ValueError if the row lacks a field or its reference does not define what its tests call
    """
    try:
        code, tests = _lf(row["code"]), tuple(_lf(test).strip() for test in row["test_list"])
        text = _lf(row["prompt"] if "prompt" in row else row["text"]).strip()
    except KeyError as error:
        raise ValueError(f"task_id={row.get('task_id')}: no field {error}; is this MBPP?") from error
    setup = "\n".join([*row.get("test_imports", []), row.get("test_setup_code", "")])
    entry_point = called(tests, code)
    return Task(
        task_id=f"mbpp/{row['task_id']}",
        text=text,
        signature=signature(code, entry_point),
        entry_point=entry_point,
        reference=code.strip() + "\n",
        tests=tests,
        setup=_lf(setup).strip(),
    )


def called(tests: Iterable[str], code: str) -> str:
    """Return the name that the tests call and the code defines; of several, the one called most often.

    raises  ValueError if there is none
    """
    defined = {node.name: type(node) for node in _parsed(code).body if isinstance(node, _DEFINITIONS)}
    names = Counter(
        node.func.id
        for test in tests
        for node in ast.walk(_parsed(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    # A class the arguments are built with is called more often than the function that takes them.
    for name, _ in sorted(names.most_common(), key=lambda item: defined.get(item[0]) is ast.ClassDef):
        if name in defined:
            return name
    unknown = [name for name in names if not hasattr(builtins, name)]
    raise ValueError(f"the tests call {unknown}, the reference defines {sorted(defined)}")


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def signature(code: str, name: str) -> str:
    """Return the line a definition starts with, written on one line: "def total(numbers, start=0):"."""
    node = next(n for n in _parsed(code).body if isinstance(n, _DEFINITIONS) and n.name == name)
    node.body, node.decorator_list = [ast.Pass()], []
    return ast.unparse(node).splitlines()[0]


def _parsed(code: str) -> ast.Module:
    """Parse code that is not ours: its stray escapes are its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(code)


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _from_hub(name: str, config: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    found = load_dataset(name, config)
    return [dict(row) for part in found.values() for row in part]
