"""Phrasebooks of languages made by hand, and a check that a rule decides."""

from __future__ import annotations

import math
import random

import pytest

from trainer.measure.phrasebook import Removal, align, check, hypergeometric_tail, phrasebook, verdict
from trainer.measure.phrasebook_pieces import joined, pieces_of

CHANCE = random.Random(2)
MEANINGS = [
    (f"a{CHANCE.randrange(4)}", f"b{CHANCE.randrange(4)}", f"c{CHANCE.randrange(4)}") for _ in range(150)
]
COMPOSED = [CHANCE.sample([piece.upper() for piece in m], 3) for m in MEANINGS]


def test_a_compositional_language_gives_its_dictionary() -> None:
    book = phrasebook(COMPOSED, MEANINGS)
    assert {(e.symbol, e.piece) for e in book} == {
        (f"{x}{i}".upper(), f"{x}{i}") for x in "abc" for i in range(4)
    }
    assert all(e.confidence > 0.95 and e.given.value == e.covers == 1 for e in book)
    assert all(e.p < 1e-6 for e in book)
    n = sum("A0" in message for message in COMPOSED)
    entry = next(e for e in book if e.symbol == "A0")
    assert entry.n == n and all("A0" in COMPOSED[i] for i in entry.examples)


def test_symbols_that_always_stand_beside_others_are_told_apart_by_the_rest() -> None:
    # B stands for b only, although b never stands without a in nine of ten programs.
    pieces = [["a", "b"] if i % 10 < 9 else ["b"] for i in range(100)] + [["a"]] * 20
    messages = [[{"a": "A", "b": "B"}[piece] for piece in found] for found in pieces]
    book = {e.symbol: e.piece for e in phrasebook(messages, pieces, most_p=1.0)}
    assert book == {"A": "a", "B": "b"}


def test_a_holistic_language_has_no_phrasebook() -> None:
    # One word for each meaning: words return, and say everything at once.
    words = {m: [f"w{i}"] for i, m in enumerate(sorted(set(MEANINGS)))}
    assert phrasebook([words[m] for m in MEANINGS], MEANINGS, least=5, confidence=0.5) == []


def test_a_random_language_has_no_phrasebook() -> None:
    chance = random.Random(3)
    messages = [chance.choices("ABCDEFGHIJKL", k=3) for _ in MEANINGS]
    assert phrasebook(messages, MEANINGS) == []


def test_aligned_information_is_that_of_the_meanings() -> None:
    # Twelve symbols, about as likely each: log2 12 bits if every symbol tells its piece.
    assert align(COMPOSED, MEANINGS).information == pytest.approx(math.log2(12), abs=0.1)
    one = [["x"]] * 50
    assert align(one, MEANINGS[:50]).information == pytest.approx(0, abs=1e-9)


def test_the_tail_is_that_of_a_hand() -> None:
    # Two of four marked, two drawn: both marked once in six.
    assert hypergeometric_tail(2, 4, 2, 2) == pytest.approx(1 / 6)
    assert hypergeometric_tail(1, 4, 2, 2) == pytest.approx(5 / 6)
    assert hypergeometric_tail(0, 10, 3, 4) == pytest.approx(1)


def removals(decode: object) -> list[Removal]:
    found = []
    for task, message in enumerate(COMPOSED):
        for symbol in message:
            left = [s for s in message if s != symbol]
            found.append(Removal(task, symbol, decode(message), decode(left)))  # type: ignore[operator]
    return found


def test_a_language_read_word_by_word_passes_the_check() -> None:
    found = check(phrasebook(COMPOSED, MEANINGS), removals(lambda m: frozenset(s.lower() for s in m)), {})
    assert all(c.breaks and c.breaks.value == 1 and c.elsewhere == c.by_others == 0 for c in found)
    assert all(c.cases == c.entry.n for c in found)
    assert verdict(found, wanted=12).compositional
    said = verdict(found, wanted=20)
    assert not said.compositional and said.symbols == 12 and "not compositional" in said.said


def test_a_decoder_that_needs_no_symbol_fails_the_check() -> None:
    found = check(phrasebook(COMPOSED, MEANINGS), removals(lambda m: frozenset({"a0", "b0", "c0"})), {})
    assert {c.breaks.value for c in found if c.breaks} == {0}
    assert not verdict(found, wanted=1).compositional


def test_a_decoder_that_needs_every_symbol_shows_that_nothing_stands_for_one_thing() -> None:
    whole = lambda m: frozenset(s.lower() for s in m) if len(m) == 3 else frozenset()  # noqa: E731
    found = check(phrasebook(COMPOSED, MEANINGS), removals(whole), {})
    assert all(c.breaks and c.breaks.value == 1 and c.elsewhere == c.by_others == 1 for c in found)
    assert verdict(found, wanted=1).symbols == 0


def test_what_is_no_program_has_lost_its_piece() -> None:
    entry = phrasebook(COMPOSED, MEANINGS)[0]
    pieces = frozenset({entry.piece})
    found = check([entry], [Removal(0, entry.symbol, pieces, None)], {})[0]
    assert found.breaks and found.breaks.value == 1


def test_pieces_are_those_a_reader_would_name() -> None:
    code = (
        "def solve(nums):\n    result = []\n    for num in nums:\n        if num % 5 != 0:\n"
        "            result.append(num ** 2)\n    return sorted(result, reverse=True)\n"
    )
    assert pieces_of(code) == {
        "def solve", "argument nums", "result = []", "for num in", "if", "%", "% 5", "!=", "!= 0",
        ".append(…)", "**", "** 2", "sorted(…)", "reverse=True", "constant 5", "constant 0", "constant 2",
        "constant True",
    }  # fmt: skip
    assert pieces_of("def f(x):\n    t = 0\n    t += x[::-1]\n    return not t in 'ab'") == {
        "def f", "argument x", "t = 0", "+=", "[::-1]", "not", "in", "in 'ab'", "constant 0", "constant 1",
        "constant 'ab'", "-",
    }  # fmt: skip
    assert pieces_of("def f(") is None


def test_pieces_that_always_stand_together_are_one() -> None:
    programs = [frozenset("xyab"), frozenset("xyb"), frozenset("ba"), frozenset("b")]
    assert joined(programs) == {"x · y": frozenset("xy"), "a": frozenset("a")}
