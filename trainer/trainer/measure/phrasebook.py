"""Which symbol of the messages stands for which piece of the programs, and whether taking it away breaks it.

Symbols are aligned with pieces by expectation maximisation (IBM model 1: Brown et al. 1993), so that two
pieces that often stand together do not both claim a symbol; the mutual information of the aligned pairs says
what a symbol tells of a piece. The check is causal: the symbol is deleted, the message decoded again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from trainer.measure.statistics import Interval, wilson

ROUNDS = 20
NOTHING = ""
# How readily a symbol is taken to mean nothing, beside 1 for each piece; at 1 it would take a piece's share.
NOTHING_WEIGHT = 0.1
Symbol = Hashable


@dataclass(frozen=True)
class Entry:
    """One line of the phrasebook.

    n           messages with the symbol, of those the book was made from
    confidence  share of the symbol's occurrences aligned with the piece
    given       share of the messages with the symbol whose program has the piece, Wilson 95 %
    covers      share of the programs with the piece whose message has the symbol
    bits        pointwise mutual information of the aligned pair: how much more often than by chance
    p           chance of as many programs with the piece among those with the symbol, times the pairs
                looked at (hypergeometric, Bonferroni); above 1 is given as 1
    examples    places of messages where it stands
    """

    symbol: Symbol
    piece: str
    n: int
    confidence: float
    given: Interval
    covers: float
    bits: float
    p: float
    examples: tuple[int, ...]


class Aligned(NamedTuple):
    """Expected counts of the pairs, and the mutual information of a symbol and its piece in bits."""

    pairs: dict[tuple[Symbol, str], float]
    information: float


def align(
    messages: Sequence[Sequence[Symbol]], pieces: Sequence[Sequence[str]], rounds: int = ROUNDS
) -> Aligned:
    """Align each symbol of a message with one piece of its program, or with nothing, by maximum likelihood.

    messages, pieces  [N] symbols of each message, pieces of its program
    """
    likely: dict[tuple[Symbol, str], float] = defaultdict(lambda: 1.0)
    pairs: dict[tuple[Symbol, str], float] = {}
    for _ in range(rounds):
        pairs = defaultdict(float)
        of_piece: dict[str, float] = defaultdict(float)
        for message, found in zip(messages, pieces, strict=True):
            options = [NOTHING, *found]
            for symbol in message:
                weights = [likely[symbol, piece] for piece in options]
                weights[0] *= NOTHING_WEIGHT
                total = math.fsum(weights)
                for piece, weight in zip(options, weights, strict=True):
                    pairs[symbol, piece] += weight / total
                    of_piece[piece] += weight / total
        likely = defaultdict(float, {pair: n / of_piece[pair[1]] for pair, n in pairs.items()})
    return Aligned(dict(pairs), _information(pairs))


class _Margins(NamedTuple):
    """How often each symbol and each piece was aligned, with anything."""

    symbols: dict[Symbol, float]
    pieces: dict[str, float]
    total: float

    def bits(self, count: float, symbol: Symbol, piece: str) -> float:
        """Return how much more often than by chance a pair was aligned, in bits."""
        if count <= 0:
            return -math.inf
        return math.log2(count * self.total / (self.symbols[symbol] * self.pieces[piece]))


def _margins(pairs: dict[tuple[Symbol, str], float]) -> _Margins:
    symbols: dict[Symbol, float] = defaultdict(float)
    pieces: dict[str, float] = defaultdict(float)
    for (symbol, piece), count in pairs.items():
        symbols[symbol] += count
        pieces[piece] += count
    return _Margins(symbols, pieces, math.fsum(pairs.values()))


def _information(pairs: dict[tuple[Symbol, str], float]) -> float:
    margins = _margins(pairs)
    return math.fsum(n / margins.total * margins.bits(n, *pair) for pair, n in pairs.items() if n > 0)


def phrasebook(
    messages: Sequence[Sequence[Symbol]],
    pieces: Sequence[Sequence[str]],
    *,
    least: int = 5,
    most_p: float = 0.01,
    confidence: float = 0.5,
) -> list[Entry]:
    """Return the symbols that stand for a piece, the surest first.

    messages, pieces  [N] as in `align`
    least             messages a symbol must stand in
    most_p            corrected p of an entry, at most
    confidence        share of the symbol's occurrences aligned with its piece, at least
    """
    pairs = align(messages, pieces).pairs
    margins, n = _margins(pairs), len(messages)
    with_symbol: dict[Symbol, list[int]] = defaultdict(list)
    with_piece: dict[str, set[int]] = defaultdict(set)
    for place, (message, found) in enumerate(zip(messages, pieces, strict=True)):
        for symbol in dict.fromkeys(message):
            with_symbol[symbol].append(place)
        for piece in found:
            with_piece[piece].add(place)
    meant: dict[Symbol, dict[str, float]] = defaultdict(dict)
    for (symbol, piece), count in pairs.items():
        if piece != NOTHING:
            meant[symbol][piece] = count
    looked_at, book = sum(map(len, meant.values())), []
    for symbol, places in with_symbol.items():
        if len(places) < least or not meant[symbol]:
            continue
        bits = {piece: margins.bits(count, symbol, piece) for piece, count in meant[symbol].items()}
        piece = max(bits, key=lambda name, own=meant[symbol], bits=bits: own[name] * bits[name])  # type: ignore[misc]
        both, size = sum(place in with_piece[piece] for place in places), len(with_piece[piece])
        p = min(1.0, looked_at * hypergeometric_tail(both, n, size, len(places)))
        share = meant[symbol][piece] / margins.symbols[symbol]
        if p <= most_p and share >= confidence:
            given = wilson(both, len(places))
            book.append(
                Entry(
                    symbol, piece, len(places), share, given, both / size, bits[piece], p, tuple(places[:3])
                )
            )
    return sorted(book, key=lambda e: (-e.given.low, -e.n, str(e.symbol)))


def hypergeometric_tail(hits: int, n: int, marked: int, drawn: int) -> float:
    """Return the chance of at least so many hits when `drawn` of n are drawn, `marked` of them marked."""
    ways = sum(
        math.comb(marked, k) * math.comb(n - marked, drawn - k) for k in range(hits, min(marked, drawn) + 1)
    )
    return ways / math.comb(n, drawn)


# --- the check ---------------------------------------------------------------------------------------


class Removal(NamedTuple):
    """A message from which every occurrence of one symbol was deleted.

    task           place of its task
    before, after  pieces of the program with and without the symbol; None: what came is no Python
    """

    task: int
    symbol: Symbol
    before: frozenset[str]
    after: frozenset[str] | None


@dataclass(frozen=True)
class Checked:
    """An entry and what deleting its symbol did, in messages the book was not made from.

    cases     messages with the symbol whose program has the piece
    breaks    share of them in which the piece is gone, Wilson 95 %; None without a case
    elsewhere share of the program's other pieces that are gone too: low is a symbol that means one thing
    by_others share of the deletions of another symbol of the same messages that lose the piece
    """

    entry: Entry
    cases: int
    breaks: Interval | None
    elsewhere: float | None
    by_others: float | None

    def specific(self, at: float) -> bool:
        """Whether deleting the symbol breaks its piece that often, and twice as often as deleting another."""
        if self.breaks is None or self.breaks.value < at:
            return False
        return self.by_others is None or self.by_others <= self.breaks.value / 2

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "symbol": str(self.entry.symbol),
            **{k: v for k, v in asdict(self.entry).items() if k not in ("symbol", "given")},
            "given": self.entry.given._asdict(),
            "cases": self.cases, "breaks": self.breaks and self.breaks._asdict(),
            "elsewhere": self.elsewhere, "by_others": self.by_others,
        }  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether the code is compositional: enough symbols whose deletion breaks their piece often enough.

    symbols  how many do, of those with `least` cases or more
    """

    compositional: bool
    symbols: int
    wanted: int
    at: float
    least: int
    checked: list[Checked] = field(default_factory=list)

    @property
    def said(self) -> str:
        """The verdict in a sentence."""
        what = (
            f"for {self.symbols} symbols of at least {self.least} cases, deleting the symbol breaks its "
            f"piece in at least {self.at:.0%} of them, and twice as often as deleting another; "
            f"{self.wanted} are asked for"
        )
        return f"The code is compositional: {what}." if self.compositional else (
            f"The code is not compositional: {what}."
        )  # fmt: skip


def check(
    book: Sequence[Entry], removals: Sequence[Removal], classes: dict[str, frozenset[str]]
) -> list[Checked]:
    """Return for each entry what deleting its symbol did.

    removals  every symbol of every message once
    classes   the pieces of each class that the book names (see `joined`); a class is broken when one is gone
    """
    by_task: dict[int, list[Removal]] = defaultdict(list)
    for removal in removals:
        by_task[removal.task].append(removal)
    found = []
    for entry in book:
        members = classes.get(entry.piece, frozenset({entry.piece}))
        own = [r for r in removals if r.symbol == entry.symbol and members <= r.before]
        others = [
            other for r in own for other in by_task[r.task] if other.symbol != entry.symbol
        ]  # fmt: skip
        gone = sum(_lost(r, members) for r in own)
        rest = [(len((r.before - members) - (r.after or frozenset())), len(r.before - members)) for r in own]
        size = sum(n for _, n in rest)
        found.append(
            Checked(
                entry, len(own), wilson(gone, len(own)) if own else None,
                sum(lost for lost, _ in rest) / size if size else None,
                sum(_lost(r, members) for r in others) / len(others) if others else None,
            )
        )  # fmt: skip
    return found


def _lost(removal: Removal, members: frozenset[str]) -> bool:
    return removal.after is None or not members <= removal.after


def verdict(checked: Sequence[Checked], *, wanted: int = 20, at: float = 0.8, least: int = 5) -> Verdict:
    """Return whether at least `wanted` symbols break their piece in a share `at` of cases, and it alone.

    least  cases a symbol must have
    """
    good = sum(c.cases >= least and c.specific(at) for c in checked)
    return Verdict(good >= wanted, good, wanted, at, least, list(checked))
