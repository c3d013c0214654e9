"""What a run compiles: done by its own process, or ahead of it, by the service's compiler. Stdlib only.

A fork that compiles writes to a hundred pages that it shares with the zygote, a third of what a short run
costs; a process that lives on does the same in a tenth of the time. Code made ahead crosses by `marshal`, is
looked at by nothing on its way, and is loaded by the run's own process, which is not trusted anyway.
"""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from types import CodeType
from typing import NamedTuple

_compile = compile  # a program may put anything in its place, and code made ahead would not notice


class Codes(NamedTuple):
    """The code of one run: its setup, if it has one, its program, and its `texts`."""

    setup: CodeType | None
    program: CodeType
    texts: tuple[CodeType, ...]


def code(text: str, name: str, mode: str) -> CodeType:
    """Compile one text. Raises what `compile` raises."""
    made: CodeType = _compile(text, name, mode, dont_inherit=True)
    return made


def setup_code(text: str) -> CodeType | None:
    """Compile a setup, if there is one."""
    return code(text, "<setup>", "exec") if text else None


def text_code(index: int, text: str, mode: str) -> CodeType:
    """Compile one of the texts that follow the program."""
    return code(text, f"<call {index}>", mode)


def program_code(text: str) -> CodeType:
    """Compile the program."""
    return code(text, "<program>", "exec")


def texts(calls: Sequence[str], beside: Sequence[str], result: str | None) -> list[tuple[str, str]]:
    """Return what follows the program, calls, tests beside it and result, each with how it is compiled."""
    after = [(one, "eval") for one in calls] + [(one, "exec") for one in beside]
    return after if result is None else [*after, (result, "eval")]


def codes(setup: str, program: str, calls: Sequence[str], beside: Sequence[str], result: str | None) -> Codes:
    """Compile all of a run. Raises what `compile` raises."""
    after = texts(calls, beside, result)
    made = tuple(text_code(index, text, mode) for index, (text, mode) in enumerate(after))
    return Codes(setup_code(setup), program_code(program), made)


def load(data: bytes) -> Codes | None:
    """Return what was made ahead; None when there is nothing, or nothing that can be read."""
    if not data:
        return None
    try:
        return Codes(*marshal.loads(data))
    except Exception:  # noqa: BLE001 - the process that made it read hostile text
        return None
