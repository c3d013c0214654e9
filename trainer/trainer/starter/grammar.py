"""The parts starter tasks are composed of: wording, code, and which of the code's tokens matter.

Code is written in a markup: ⟦g|text⟧ says that `text` belongs to group g, and that a shorthand of the
code can be understood only while at least one member of every group is left. Whatever is not marked is
redundant: Python's syntax, a variable's second mention, the indentation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

NAMES = (
    "solve",
    "compute",
    "process",
    "evaluate",
    "analyze",
    "transform",
    "calculate",
    "measure",
    "extract",
    "reduce",
    "check",
    "handle",
    "derive",
    "resolve",
    "collect",
    "inspect",
    "convert",
    "gather",
    "answer",
    "examine",
    "summarize",
    "produce",
    "select",
    "perform",
)

NUMBER, CHAR, WORD = "number", "char", "word"


class Source(NamedTuple):
    """Where the items come from.

    kind    type of an item
    param   the argument's name
    loop    the marked head of the loop, with {p} for the argument
    words   how the text names the place, with {p} for the argument
    items   how the text names the items
    draw    an argument for a test
    """

    name: str
    kind: str
    param: str
    loop: str
    words: tuple[str, ...]
    items: str
    draw: Callable[[random.Random], Any]


class Part(NamedTuple):
    """A filter, a map or a reduction.

    takes        kinds of item it works on
    code         marked code with {k} for its constant and {v} for the item (see `reference`)
    words        wordings
    constants    what {k} is drawn from
    gives        kind of the result of a map, None if unchanged
    signed_only  only for lists, whose numbers may be negative
    """

    name: str
    takes: tuple[str, ...]
    code: str
    words: tuple[str, ...]
    constants: tuple[Any, ...] = (0,)
    gives: str | None = None
    signed_only: bool = False

    def constant(self, rng: random.Random) -> Any:
        """Draw the constant."""
        return rng.choice(self.constants)


def _numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-12, 30) for _ in range(rng.randint(4, 9))]


def _digits(rng: random.Random) -> int:
    return rng.randint(10**4, 10**8)


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _word(rng: random.Random) -> str:
    word = "".join(rng.choice(_LETTERS + "aeiou") for _ in range(rng.randint(2, 8)))
    return word.capitalize() if rng.random() < 0.3 else word


def _text(rng: random.Random) -> str:
    mixed = _LETTERS + _LETTERS.upper() + "0123456789aeiouAEIOU"
    return "".join(rng.choice(mixed) for _ in range(rng.randint(9, 16)))


def _sentence(rng: random.Random) -> str:
    return " ".join(_word(rng) for _ in range(rng.randint(4, 7)))


def named(parts: list[Any]) -> Mapping[str, Any]:
    """Return parts by their names."""
    return {part.name: part for part in parts}


SOURCES: Mapping[str, Source] = named(
    [
        Source(
            "list",
            NUMBER,
            "nums",
            "for num in {p}:",
            ("in a list", "of the given list"),
            "numbers",
            _numbers,
        ),
        Source(
            "range",
            NUMBER,
            "n",
            "for num in ⟦s|range⟧(1, {p} + 1):",
            ("from 1 to {p}", "between 1 and {p}"),
            "numbers",
            lambda rng: rng.randint(8, 24),
        ),
        Source(
            "digits",
            NUMBER,
            "number",
            "for num in ⟦s|map⟧(⟦s|int⟧, ⟦s|str⟧({p})):",
            ("of {p}", "of the number {p}"),
            "digits",
            _digits,
        ),
        Source(
            "chars",
            CHAR,
            "string",
            "for ⟦s|char⟧ in {p}:",
            ("in a string", "of the given string"),
            "characters",
            _text,
        ),
        Source(
            "words",
            WORD,
            "sentence",
            "for ⟦s|word⟧ in {p}.⟦s|split⟧():",
            ("in a sentence", "of the given text"),
            "words",
            _sentence,
        ),
    ]
)


def reference(
    source: Source,
    kept: Part,
    mapped: Part,
    reduction: Part,
    name: str,
    param: str,
    filter_k: Any,
    map_k: Any,
) -> str:
    """Write the marked reference of a composition, as people write it: a loop, PEP 8, several lines.

    returns  the function's marked code, no newline at its end
    """
    item = {NUMBER: "num", CHAR: "char", WORD: "word"}[source.kind]
    loop = source.loop.replace("{p}", param)
    condition = kept.code.replace("{v}", item).replace("{k}", str(filter_k))
    inner = f"        if {condition}:\n" if condition else ""
    value = mapped.code.replace("{v}", item).replace("{k}", str(map_k))
    body = (
        reduction.code.replace("{loop}", loop)
        .replace("{if}", inner)
        .replace("{pad}", "            " if condition else "        ")
        .replace("{m}", value)
    )
    return f"def ⟦n|{name}⟧({param}):\n{body}"
