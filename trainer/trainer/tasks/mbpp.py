"""MBPP, sanitized and full: what a row says, and what is read off its reference code.

Example row (sanitized):
    {"task_id": 2, "prompt": "Write a function to find the shared elements from the given two lists.",
     "code": "def similar_elements(test_tup1, test_tup2): ...", "test_imports": [],
     "test_list": ["assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))", ...]}
The full set calls the prompt `text` and has `test_setup_code` in place of `test_imports`.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from trainer.tasks.task import Task

HUB = "google-research-datasets/mbpp"
# By task_id, as the data set's authors split it; the first ten are for few-shot prompts.
SPLIT_ENDS = (("prompt", 10), ("test", 510), ("validation", 600))


class MbppRow(BaseModel):
    """One row of either set; other fields (challenge tests, source files) are left alone."""

    model_config = ConfigDict(strict=True, frozen=True)

    task_id: int = Field(ge=1)
    prompt: str = Field(min_length=1, validation_alias=AliasChoices("prompt", "text"))
    code: str = Field(min_length=1)
    test_list: list[str] = Field(min_length=1)
    test_imports: list[str] = []
    test_setup_code: str = ""


def split_of(task_id: int) -> str:
    """Return prompt, test, validation or train."""
    return next((name for name, end in SPLIT_ENDS if task_id <= end), "train")


def task_of(row: dict[str, Any]) -> Task:
    """Return one row as a task; line ends are normalised, the signature is read off the reference code.

    raises  ValueError (pydantic's too) if a field is missing or wrong, or the reference does not define what
            the tests call
    """
    read = MbppRow.model_validate(row)
    code, tests = lf(read.code), tuple(lf(test).strip() for test in read.test_list)
    entry_point = called(tests, code)
    return Task(
        task_id=f"mbpp/{read.task_id}",
        text=lf(read.prompt).strip(),
        signature=signature(code, entry_point),
        entry_point=entry_point,
        reference=code.strip() + "\n",
        tests=tests,
        setup=lf("\n".join([*read.test_imports, read.test_setup_code])).strip(),
    )


def called(tests: Iterable[str], code: str) -> str:
    """Return the name that the tests call and the code defines; of several, the one called most often.

    raises  ValueError if there is none, or either is not Python
    """
    defined = {
        node.name: type(node)
        for node in _parsed(code, "the reference").body
        if isinstance(node, _DEFINITIONS)
    }
    names = Counter(
        node.func.id
        for test in tests
        for node in ast.walk(_parsed(test, "a test"))
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
    """Return the line a definition starts with, written on one line: "def total(numbers, start=0):".

    raises  ValueError if the code is not Python or does not define the name
    """
    body = _parsed(code, "the reference").body
    node = next((n for n in body if isinstance(n, _DEFINITIONS) and n.name == name), None)
    if node is None:
        raise ValueError(f"the reference does not define {name!r}")
    node.body, node.decorator_list = [ast.Pass()], []
    return ast.unparse(node).splitlines()[0]


def _parsed(code: str, what: str) -> ast.Module:
    """Parse code that is not ours: its stray escapes are its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return ast.parse(code)
        except SyntaxError as error:
            raise ValueError(f"{what} is not Python: {error}") from error


def lf(text: str) -> str:
    """Return text with plain line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
