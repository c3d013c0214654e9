"""The same tasks under other names and with other tests: does a name tell all, are the tests enough?"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Sequence

from trainer.tasks.starter import fresh_tests
from trainer.tasks.task import Task

# A name that says nothing, and that no starter task has.
NEUTRAL = "candidate"


def renamed(task: Task, name: str) -> Task:
    """Return the task with its function called otherwise: in signature, reference and tests.

    raises  ValueError if they cannot be read as Python
    """
    if not name.isidentifier():
        raise ValueError(f"name={name!r} is no Python name")
    old = task.entry_point
    return task._replace(
        signature=_replaced(task.signature, old, name),
        entry_point=name,
        reference=_replaced(task.reference, old, name),
        tests=tuple(_replaced(test, old, name) for test in task.tests),
    )


def dealt_names(tasks: Sequence[Task]) -> list[str]:
    """Return for each task the name of another one's function, a different name where there is one."""
    names = [task.entry_point for task in tasks]
    found = []
    for place, own in enumerate(names):
        others = (names[(place + step) % len(names)] for step in range(1, len(names)))
        found.append(next((name for name in others if name != own), own))
    return found


def _replaced(code: str, old: str, new: str) -> str:
    """Return code with a name replaced where it stands as a name: not in texts, not inside other names."""
    lines = code.splitlines(keepends=True)
    places = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.NAME and token.string == old:
                places.append(token.start)
    except tokenize.TokenError as error:
        # A signature alone ends in the middle of its block; the names in it have been read by then.
        if "EOF" not in str(error):
            raise ValueError(f"cannot be read as Python: {error}") from error
    except SyntaxError as error:
        raise ValueError(f"cannot be read as Python: {error}") from error
    for row, column in reversed(places):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "".join(lines)


def aliased(program: str, entry_point: str) -> str:
    """Return a program whose function answers to the name the tests call, whatever it calls itself.

    returns  the program itself if it defines no function, or that one already
    """
    try:
        names = [node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError):
        return program
    if not names or entry_point in names:
        return program
    return f"{program.rstrip()}\n\n{entry_point} = {names[-1]}\n"


def halved(task: Task) -> tuple[Task, Task] | None:
    """Return the task with its first half of tests, and with the others; None if there is only one."""
    middle = len(task.tests) // 2
    if not middle:
        return None
    return task._replace(tests=task.tests[:middle]), task._replace(tests=task.tests[middle:])


def hidden(task: Task, *, seed: int = 1) -> Task | None:
    """Return a starter task with new tests nobody has seen; None for a task of another data set."""
    tests = fresh_tests(task, seed)
    return task._replace(tests=tests) if tests else None
