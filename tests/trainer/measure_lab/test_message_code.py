"""The code for messages: lossless, free of prefixes, within two bits of its model, and never peeking."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.measure.message_code import CodeError, MessageModel, cross_fitted_bits

CHANCE = random.Random(4)
MESSAGES = [[CHANCE.choice((1, 1, 1, 2, 3)) for _ in range(CHANCE.randint(0, 8))] for _ in range(60)]


@given(st.lists(st.lists(st.integers(0, 19), max_size=12), max_size=8), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_stream_of_code_words_gives_the_messages_back(messages: list[list[int]], order: int) -> None:
    model = MessageModel(20, order).fit(MESSAGES)
    stream, place, found = "".join(map(model.encode, messages)), 0, []
    for _ in messages:
        ids, place = model.decode(stream, place)
        found.append(ids)
    assert found == messages and place == len(stream)


def test_no_code_word_begins_with_another() -> None:
    model = MessageModel(5).fit(MESSAGES)
    words = [model.encode(list(m)) for m in {tuple(m) for m in MESSAGES} | {(), (4, 4), (4,)}]
    assert not any(a.startswith(b) or b.startswith(a) for a, b in combinations(words, 2))
    assert math.fsum(2.0 ** -len(word) for word in words) <= 1


def test_a_code_word_is_within_two_bits_of_the_model() -> None:
    model = MessageModel(30).fit(MESSAGES)
    for message in (*MESSAGES, [29, 28, 27], []):
        assert model.ideal_bits(message) <= len(model.encode(message)) < model.ideal_bits(message) + 2


def test_without_messages_every_token_costs_the_same() -> None:
    model = MessageModel(7)
    assert model.ideal_bits([]) == pytest.approx(3, abs=1e-6)
    assert model.ideal_bits([5, 2]) == pytest.approx(9, abs=1e-6)


def test_witten_bell_is_that_of_a_hand() -> None:
    # One message "0": the token 0 and the end seen once each, so half of the scale goes to the uniform.
    model = MessageModel(3, 1).fit([[0]])
    likely = {0: 0.25 + 0.5 / 4, 1: 0.5 / 4, 3: 0.25 + 0.5 / 4}
    assert model.ideal_bits([]) == pytest.approx(-math.log2(likely[3]), abs=1e-6)
    assert model.ideal_bits([1]) == pytest.approx(-math.log2(likely[1]) - math.log2(likely[3]), abs=1e-6)


def test_what_was_often_seen_is_cheap_and_everything_can_be_said() -> None:
    model = MessageModel(500).fit([[7, 8, 9]] * 200)
    assert len(model.encode([7, 8, 9])) <= 3
    assert len(model.encode([400, 401])) > 2 * math.log2(500)


def test_a_message_pays_as_if_it_had_never_been_seen() -> None:
    # Messages without anything in common: knowing the others must not help, knowing oneself would.
    apart = [[i] * 4 for i in range(20)]
    crossed = cross_fitted_bits(apart, 20, folds=20)
    peeking = MessageModel(20).fit(apart)
    assert min(crossed) > max(len(peeking.encode(m)) for m in apart)


def test_the_entropy_of_a_random_language_is_reached() -> None:
    # Three of four tokens at random: 6 bits. A model that looks at one token cannot tell where a message
    # ends: 2 + 2 (2 + log2 3/2) + log2 3 = 8.75 bits. A code word takes less than two bits more.
    chance = random.Random(0)
    messages = [[chance.randrange(4) for _ in range(3)] for _ in range(2000)]
    for order, entropy in ((4, 6.0), (2, 2 + 2 * (2 + math.log2(1.5)) + math.log2(3))):
        model = MessageModel(1000, order).fit(messages)
        ideal = sum(map(model.ideal_bits, messages)) / len(messages)
        assert ideal == pytest.approx(entropy, abs=0.35)
        crossed = cross_fitted_bits(messages[:400], 1000, order=order)
        assert entropy < sum(crossed) / len(crossed) < entropy + 3


@pytest.mark.parametrize("bits", ["", "0", "01x1"])
def test_what_is_no_code_word_is_refused(bits: str) -> None:
    model = MessageModel(500).fit([[1, 2, 3]])
    with pytest.raises(CodeError):
        model.decode(bits)


def test_a_foreign_token_is_refused() -> None:
    with pytest.raises(CodeError, match="token 5"):
        MessageModel(5).encode([5])


def test_a_model_is_the_same_after_a_file() -> None:
    model = MessageModel(20).fit(MESSAGES)
    again = MessageModel.from_json(json.loads(json.dumps(model.as_json())))
    assert [again.encode(m) for m in MESSAGES] == [model.encode(m) for m in MESSAGES]
    with pytest.raises(CodeError, match="export the codec again"):
        MessageModel.from_json({"order": 3})
