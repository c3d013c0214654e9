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
    "solve", "compute", "process", "evaluate", "analyze", "transform", "calculate", "measure", "extract",
    "reduce", "check", "handle", "derive", "resolve", "collect", "inspect", "convert", "gather", "answer",
    "examine", "summarize", "produce", "select", "perform",
)  # fmt: skip

NUMBER, CHAR, WORD = "number", "char", "word"


class Source(NamedTuple):
    """Where the items come from.

    kind    type of an item
    params  names the argument may have
    loop    the marked head of the loop, with {p} for the argument
    words   how the text names the place, with {p} for the argument
    items   how the text names the items
    draw    an argument for a test
    """

    name: str
    kind: str
    params: tuple[str, ...]
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


def _named(parts: list[Any]) -> Mapping[str, Any]:
    return {part.name: part for part in parts}


SOURCES: Mapping[str, Source] = _named([
    Source("list", NUMBER, ("nums", "numbers", "values"), "for num in {p}:",
           ("in a list", "of the given list"), "numbers", _numbers),
    Source("range", NUMBER, ("n", "limit", "end"), "for num in ⟦s|range⟧(1, {p} + 1):",
           ("from 1 to {p}", "between 1 and {p}"), "numbers", lambda rng: rng.randint(8, 24)),
    Source("digits", NUMBER, ("n", "number"), "for num in ⟦s|map⟧(⟦s|int⟧, ⟦s|str⟧({p})):",
           ("of {p}", "of the number {p}"), "digits", _digits),
    Source("chars", CHAR, ("text", "string", "s"), "for ⟦s|char⟧ in {p}:",
           ("in a string", "of the given string"), "characters", _text),
    Source("words", WORD, ("text", "sentence", "s"), "for ⟦s|word⟧ in {p}.⟦s|split⟧():",
           ("in a sentence", "of the given text"), "words", _sentence),
])  # fmt: skip

_SMALL = tuple(range(2, 10))
_WIDE = tuple(range(2, 16))
_MODULI = tuple(range(3, 10))

FILTERS: Mapping[str, Part] = _named([
    Part("all", (NUMBER, CHAR, WORD), "", ("{items}",)),
    Part("even", (NUMBER,), "{v} ⟦f1|%⟧ ⟦f2|2⟧ ⟦f3|==⟧ 0", ("even {items}",)),
    Part("odd", (NUMBER,), "{v} ⟦f1|%⟧ ⟦f2|2⟧ ⟦f3|!=⟧ 0", ("odd {items}",)),
    Part("positive", (NUMBER,), "{v} ⟦f1|>⟧ ⟦f2|0⟧", ("positive {items}", "{items} above zero"),
         signed_only=True),
    Part("negative", (NUMBER,), "{v} ⟦f1|<⟧ ⟦f2|0⟧", ("negative {items}", "{items} below zero"),
         signed_only=True),
    Part("above", (NUMBER,), "{v} ⟦f1|>⟧ ⟦f2|{k}⟧", ("{items} greater than {k}", "{items} above {k}"), _SMALL),
    Part("below", (NUMBER,), "{v} ⟦f1|<⟧ ⟦f2|{k}⟧", ("{items} less than {k}", "{items} below {k}"), _SMALL),
    Part("divisible", (NUMBER,), "{v} ⟦f1|%⟧ ⟦f2|{k}⟧ ⟦f3|==⟧ 0",
         ("{items} divisible by {k}", "{items} that are multiples of {k}"), _MODULI),
    Part("indivisible", (NUMBER,), "{v} ⟦f1|%⟧ ⟦f2|{k}⟧ ⟦f3|!=⟧ 0", ("{items} not divisible by {k}",), _MODULI),
    Part("vowel", (CHAR,), "{v} in ⟦f1|\"aeiou\"⟧", ("vowels",)),
    Part("other", (CHAR,), "{v} ⟦f1|not⟧ in ⟦f2|\"aeiou\"⟧", ("{items} that are not vowels",)),
    Part("digit", (CHAR,), "{v}.⟦f1|isdigit⟧()", ("digits", "{items} that are digits")),
    Part("letter", (CHAR,), "{v}.⟦f1|isalpha⟧()", ("letters", "{items} that are letters")),
    Part("capital", (CHAR,), "{v}.⟦f1|isupper⟧()", ("uppercase {items}",)),
    Part("small", (CHAR,), "{v}.⟦f1|islower⟧()", ("lowercase {items}",)),
    Part("longer", (WORD,), "len({v}) ⟦f1|>⟧ ⟦f2|{k}⟧", ("{items} longer than {k}",), tuple(range(2, 6))),
    Part("shorter", (WORD,), "len({v}) ⟦f1|<⟧ ⟦f2|{k}⟧", ("{items} shorter than {k}",), tuple(range(5, 9))),
])  # fmt: skip

MAPS: Mapping[str, Part] = _named([
    Part("all", (NUMBER, CHAR, WORD), "{v}", ("",)),
    Part("square", (NUMBER,), "{v} ⟦m1|**⟧ ⟦m2|2⟧", (", each squared", " after squaring each")),
    Part("cube", (NUMBER,), "{v} ⟦m1|**⟧ ⟦m2|3⟧", (", each cubed", " after cubing each")),
    Part("times", (NUMBER,), "{v} ⟦m1|*⟧ ⟦m2|{k}⟧",
         (", each multiplied by {k}", " after multiplying each by {k}"), _SMALL),
    Part("plus", (NUMBER,), "{v} ⟦m1|+⟧ ⟦m2|{k}⟧", (", each increased by {k}", " after adding {k} to each"), _WIDE),
    Part("minus", (NUMBER,), "{v} ⟦m1|-⟧ ⟦m2|{k}⟧",
         (", each decreased by {k}", " after subtracting {k} from each"), _WIDE),
    Part("absolute", (NUMBER,), "⟦m1|abs⟧({v})", (", each as an absolute value",), signed_only=True),
    Part("modulo", (NUMBER,), "{v} ⟦m1|%⟧ ⟦m2|{k}⟧", (", each modulo {k}", " after taking each modulo {k}"), _MODULI),
    Part("quotient", (NUMBER,), "{v} ⟦m1|//⟧ ⟦m2|{k}⟧",
         (", each divided by {k} without remainder",), tuple(range(2, 6))),
    Part("upper", (CHAR, WORD), "{v}.⟦m1|upper⟧()", (", in uppercase", ", each in uppercase")),
    Part("lower", (CHAR, WORD), "{v}.⟦m1|lower⟧()", (", in lowercase", ", each in lowercase")),
    Part("repeat", (CHAR, WORD), "{v} ⟦m1|*⟧ ⟦m2|{k}⟧", (", each repeated {k} times",), tuple(range(2, 6))),
    Part("backwards", (WORD,), "{v}⟦m1|[::-1]⟧", (", each reversed", ", each written backwards")),
    Part("length", (WORD,), "⟦m1|len⟧({v})", (", each as its length", " after taking the length of each"),
         gives=NUMBER),
])  # fmt: skip

_LIST = ("    result = []\n    {loop}\n{if}{pad}result.append({m})\n    return ", "")
_ANY = (NUMBER, CHAR, WORD)

REDUCTIONS: Mapping[str, Part] = _named([
    Part("sum", (NUMBER,), "    ⟦r|total⟧ = 0\n    {loop}\n{if}{pad}⟦r|total⟧ ⟦r|+=⟧ {m}\n    return ⟦r|total⟧",
         ("find the sum of the {items} {place}", "add up the {items} {place}")),
    Part("product", (NUMBER,),
         "    ⟦r|product⟧ = 1\n    {loop}\n{if}{pad}⟦r|product⟧ ⟦r|*=⟧ {m}\n    return ⟦r|product⟧",
         ("find the product of the {items} {place}", "multiply together the {items} {place}")),
    Part("count", _ANY, "    ⟦r|count⟧ = 0\n    {loop}\n{if}{pad}⟦r|count⟧ += 1\n    return ⟦r|count⟧",
         ("count the {items} {place}", "find how many {items} there are {place}")),
    Part("max", (NUMBER,), _LIST[0] + "⟦r|max⟧(result)",
         ("find the largest of the {items} {place}", "find the maximum of the {items} {place}")),
    Part("min", (NUMBER,), _LIST[0] + "⟦r|min⟧(result)",
         ("find the smallest of the {items} {place}", "find the minimum of the {items} {place}")),
    Part("list", _ANY, _LIST[0].replace("result = []", "⟦r|result⟧ = []").replace("result.append",
         "⟦r|result⟧.⟦r|append⟧") + "⟦r|result⟧",
         ("list the {items} {place}", "collect the {items} {place} in a list")),
    Part("sorted", _ANY, _LIST[0] + "⟦r|sorted⟧(result)",
         ("sort the {items} {place}", "list the {items} {place} in ascending order")),
    Part("descending", _ANY, _LIST[0] + "sorted(result, ⟦r|reverse=True⟧)",
         ("sort the {items} {place} in descending order", "list the {items} {place} from largest to smallest")),
    Part("distinct", _ANY, _LIST[0] + "len(⟦r|set⟧(result))",
         ("count the distinct {items} {place}", "find how many different {items} there are {place}")),
    Part("join", (CHAR, WORD), _LIST[0] + "\"-\".⟦r|join⟧(result)",
         ("join the {items} {place} with dashes",)),
])  # fmt: skip


def reference(
    source: Source, kept: Part, mapped: Part, reduction: Part, name: str, param: str, filter_k: Any, map_k: Any
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
