"""Languages made by hand: one perfectly compositional, one holistic."""

from __future__ import annotations

import math
import random

import pytest

from trainer.measure.language import (
    contains,
    describe,
    parts_of,
    python_words,
    survival,
    topographic_similarity,
)  # fmt: skip
from trainer.tasks.starter import starter_tasks
from trainer.tasks.task import Task

MEANINGS = [(a, b, c) for a in range(4) for b in range(4, 8) for c in range(8, 12)]
TASK = Task(
    "t", "", "def f(x):", "f", "def f(x):\n    return x % 2 + 31\n", ("assert f(1) == 32",), family="odd+sum"
)


def test_a_perfectly_compositional_language_scores_one() -> None:
    found = topographic_similarity(MEANINGS, [tuple(f"w{part}" for part in m) for m in MEANINGS])
    assert found.rho == pytest.approx(1)
    assert abs(found.null_mean) < 0.05
    assert found.p == pytest.approx(1 / 201)


def test_a_holistic_language_scores_nothing() -> None:
    chance = random.Random(0)
    words = [tuple(chance.choices("abcdefgh", k=3)) for _ in MEANINGS]
    found = topographic_similarity(MEANINGS, words)
    assert abs(found.rho) < 0.1
    assert found.p > 0.01


def test_a_language_of_one_message_has_no_similarity() -> None:
    found = topographic_similarity(MEANINGS, [("x",)] * len(MEANINGS))
    assert math.isnan(found.rho)


def test_similarity_uses_the_distance_it_is_given() -> None:
    meanings, messages = [(0,), (1,), (2,), (3,)], ["a", "ab", "abc", "abcd"]
    by_value = topographic_similarity(meanings, messages, distance=lambda x, y: abs(x[0] - y[0]))  # type: ignore[operator]
    assert by_value.rho > 0.8
    assert math.isnan(topographic_similarity(meanings, messages).rho)  # all meanings equally far apart


def test_the_null_is_the_same_as_correlating_shuffled_messages_outright() -> None:
    from trainer.measure.statistics import edit_distance, mean, pearson, ranks

    meanings, messages = MEANINGS[:6], ["a", "ab", "b", "bbb", "c", "abc"]
    order, chance, slow = list(range(6)), random.Random(5), []
    for _ in range(20):
        chance.shuffle(order)
        pairs = [(i, j) for i in range(6) for j in range(i)]
        x = ranks([edit_distance(meanings[i], meanings[j]) / 3 for i, j in pairs])
        y = ranks(
            [
                edit_distance(messages[order[i]], messages[order[j]])
                / max(len(messages[order[i]]), len(messages[order[j]]))
                for i, j in pairs
            ]
        )
        slow.append(pearson(x, y))
    assert topographic_similarity(meanings, messages, shuffles=20, seed=5).null_mean == pytest.approx(
        mean(slow)
    )


def test_counts_and_entropies_are_those_of_a_hand() -> None:
    found = describe([TASK] * 4, ["a b", "a b", "a c", "a d"], [(1, 2), (1, 2), (1, 3), (1, 4)])
    assert (found.n, found.tokens, found.distinct_tokens, found.distinct_messages) == (4, 8, 4, 3)
    assert found.type_token == 0.5
    assert found.message_entropy_bits == pytest.approx(1.5)
    assert found.token_entropy_bits == pytest.approx(0.5 + 0.5 + 2 * 0.375)


def test_the_reference_is_read_by_kind_of_word() -> None:
    kinds = [kind for kind, _ in python_words(TASK)]
    assert kinds == [
        "def",
        "function name",
        "(",
        "name",
        ")",
        ":",
        "return",
        "name",
        "%",
        "number",
        "+",
        "number",
    ]


def test_survival_is_the_share_of_distinct_words_still_sent() -> None:
    found = survival([TASK, TASK], ["f x %2", "f"])
    assert found["function name"] == 1
    assert found["name"] == 0.5
    assert found["%"] == 0.5
    assert found["number"] == 0.25  # of 2 and 31, one message holds the 2
    assert found["def"] == found["return"] == 0


def test_a_word_is_not_found_inside_another() -> None:
    assert not contains("refund", "f") and contains("x f", "f")
    assert not contains("312", "31") and contains("a%2", "%") and contains("a ! = 2", "!=")


def test_a_string_is_found_with_its_blanks_and_not_without() -> None:
    code = "def f(x):\n    return x.split(\" \") + x.split('a b')\n"
    assert survival([TASK._replace(reference=code)], [code])["text"] == 1
    assert contains("split ( ' a  b ' )", "'a b'") and not contains("split('ab')", "'a b'")
    assert contains('x "  " y', '" "') and not contains('x "" y', '" "')


def test_code_that_does_not_tokenize_is_read_as_far_as_it_goes() -> None:
    assert python_words(TASK._replace(reference="def f(x:\n  '''"))[:2] == [
        ("def", "def"),
        ("function name", "f"),
    ]


def test_the_parts_of_a_starter_task_are_told_and_of_others_not() -> None:
    task = starter_tasks("test", 1)[0]
    assert (
        "+".join(parts_of(task)[:4]) == task.task_id.split("/")[1] and parts_of(task)[4] == task.entry_point
    )
    assert parts_of(TASK) == ()
    assert describe([TASK] * 2, ["a", "b"], [(1,), (2,)]).posdis is None


def test_naming_each_part_of_a_task_in_turn_is_a_perfect_language() -> None:
    tasks = starter_tasks("test", 200)
    words = [parts_of(task) for task in tasks]
    found = describe(
        tasks, [" ".join(w) for w in words], words, length_of=lambda word: len(str(word)), most=20
    )
    assert found.posdis is not None and found.posdis.value > 0.6 > 3 * found.posdis.null_mean
    assert found.posdis.p == pytest.approx(1 / 41)
    stored = found.as_json()
    assert stored["zipf"]["slope"] < 0 and set(stored["abbreviation"]) == {"value", "null_mean", "p"}
