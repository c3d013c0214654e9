"""Show untrusted text as it is: nothing in it becomes markup, and nothing in it stays invisible.

Controls, bidirectional overrides, zero-width characters, odd blanks, private and unassigned characters and
piled-up accents become markers that name them. It does not protect against look-alikes: a Cyrillic a still
looks like an a.
"""

from __future__ import annotations

import html as entities
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

# Characters of visible categories that draw nothing, and the joiners among the marks.
BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0")
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
NAMES = {
    "\n": "↵",
    "\t": "⇥",
    "\r": "␍",
    "\x00": "␀",
    "\x1b": "␛",
    "\u200b": "ZWSP",
    "\u200d": "ZWJ",
    "\u200c": "ZWNJ",
    "\xa0": "NBSP",
    "\ufeff": "BOM",
}


class Piece(NamedTuple):
    """A stretch of text, or one hidden character with the marker that stands for it."""

    text: str
    hidden: bool


def pieces(text: str, *, block: bool, limit: int) -> Iterator[Piece]:
    """Take a text apart into what can be shown and what has to be marked.

    block   line feeds and tabs are layout and stay; else they are marked too
    limit   characters shown; what is cut is said
    """
    run, marks = "", 0
    for char in text[:limit]:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        layout = char == " " or (block and char in "\n\t")
        if not layout and (category in HIDDEN or char in BLANKS or _variation(char) or marks > 2):
            if run:
                yield Piece(run, False)
            run = ""
            yield Piece(char, True)
        else:
            run += char
    if run:
        yield Piece(run, False)


def _variation(char: str) -> bool:
    """Whether it only selects how its neighbour is drawn: enough to smuggle a byte, never seen."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def marker(char: str) -> str:
    """Return the short name of a hidden character, e.g. U+202E."""
    return NAMES.get(char, f"U+{ord(char):04X}")


def plain(text: object, limit: int = 400) -> str:
    """Return the text on one line with markers in brackets; for SVG text and titles. Not yet escaped."""
    whole = str(text)
    shown = "".join(
        f"⟦{marker(p.text)}⟧" if p.hidden else p.text for p in pieces(whole, block=False, limit=limit)
    )
    return shown + _cut(whole, limit)


def attribute(text: object, limit: int = 400) -> str:
    """Return the text for an attribute or an element's text, in HTML and in SVG."""
    return entities.escape(plain(text, limit), quote=True)


def html(text: object, *, block: bool = False, limit: int = 4000) -> str:
    """Return the text as HTML: entities escaped, each hidden character a marker, its name a tooltip."""
    whole, parts = str(text), []
    for piece in pieces(whole, block=block, limit=limit):
        if piece.hidden:
            name = unicodedata.name(piece.text, "no name")
            parts.append(f'<span class="hidden" title="{entities.escape(name)}">{marker(piece.text)}</span>')
        else:
            parts.append(entities.escape(piece.text, quote=True))
    return "".join(parts) + entities.escape(_cut(whole, limit))


def _cut(text: str, limit: int) -> str:
    """Return what has to be said when a text is longer than is shown."""
    return "" if len(text) <= limit else f" … ({len(text) - limit} more characters)"
