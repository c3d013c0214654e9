"""A student's phrasebook: which symbol stands for which piece of program, and what deleting it does.

From the run's controls.json, which `psuedoptimal controls RUN` writes; nothing is worked out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from playground.folders import Folders
from playground.tails import Row

Order = Literal["sure", "often", "symbol"]
# As trainer.measure.phrasebook.verdict counts: with fewer cases a symbol is neither confirmed nor refuted.
LEAST_CASES = 5


@dataclass(frozen=True)
class Entry:
    """One symbol. Shares are 0 to 1, None where nothing was measured.

    n        messages with the symbol
    given    of those, the share whose program has the piece
    breaks   share of the cases in which deleting the symbol loses the piece; low, high: 95 %
    others   the same when another symbol is deleted
    holds    whether deleting it, and hardly another, loses the piece, in enough cases to say so
    """

    symbol: str
    piece: str
    n: int
    given: float | None
    confidence: float | None
    cases: int
    breaks: float | None
    low: float | None
    high: float | None
    others: float | None
    holds: bool
    examples: list[Row]


@dataclass(frozen=True)
class Book:
    """A phrasebook. facts: names and values; controls: rows of figures of senders that must do badly."""

    verdict: str
    compositional: bool
    facts: list[tuple[str, str]]
    entries: list[Entry]
    of: int
    controls: list[Row]
    command: str


def read_book(folders: Folders, name: str, *, search: str = "", order: Order = "sure") -> Book | None:
    """Return a run's phrasebook, only with entries that hold `search`; None without one. Raises NotFound."""
    found = folders.object(name, "controls.json")
    book = found.get("phrasebook")
    if not isinstance(book, dict):
        return None
    entries = [_entry(row) for row in book.get("entries") or [] if isinstance(row, dict)]
    wanted = [one for one in entries if search.lower() in f"{one.symbol}\n{one.piece}".lower()]
    rows = found.get("controls")
    facts = _facts(book | {"stand": len(entries)})
    return Book(
        str(book.get("verdict", "")), bool(book.get("compositional")), facts, _sorted(wanted, order),
        len(entries), [row for row in (rows or {}).get("rows", []) if isinstance(row, dict)],
        str(found.get("command", "")),
    )  # fmt: skip


def _entry(row: Row) -> Entry:
    breaks, given = _interval(row.get("breaks")), _interval(row.get("given"))
    return Entry(
        str(row.get("symbol", "")), str(row.get("piece", "")), int(row.get("n") or 0), given.get("value"),
        row.get("confidence"), int(row.get("cases") or 0), breaks.get("value"), breaks.get("low"),
        breaks.get("high"), row.get("by_others"),
        bool(row.get("specific")) and int(row.get("cases") or 0) >= LEAST_CASES,
        [one for one in row.get("examples") or [] if isinstance(one, dict)],
    )  # fmt: skip


def _interval(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _sorted(entries: Sequence[Entry], order: Order) -> list[Entry]:
    match order:
        case "often":
            return sorted(entries, key=lambda one: (-one.n, one.symbol))
        case "symbol":
            return sorted(entries, key=lambda one: (one.symbol.lower(), one.piece))
        case _:
            return sorted(entries, key=lambda one: (not one.holds, -(one.low or 0.0), -one.n, one.symbol))


def _facts(book: Row) -> list[tuple[str, str]]:
    """Return what is said of the book as a whole."""
    names = (
        ("distinct_symbols", "distinct symbols in use"), ("stand", "of them stand for a piece"),
        ("symbols", "of these pass the check"),
        ("aligned_bits", "bits a symbol tells of its piece"), ("aligned_bits_shuffled", "the same, shuffled"),
        ("made_from", "messages it was made from"), ("checked_on", "messages it was checked on"),
    )  # fmt: skip
    return [
        (name, f"{value:.2f}" if isinstance(value, float) else str(value))
        for key, name in names
        if isinstance(value := book.get(key), int | float)
    ]
