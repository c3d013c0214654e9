"""Changed messages and their counts, by hand; then through real services that echo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from shared.clients import run
from trainer.channels.text.exchange import Exchange
from trainer.config_text import STARTER_STUDENT, TextConfig
from trainer.measure.causal import Effect, Sent, broken, effects, importance, needed, send
from trainer.measure.controls_messages import (
    PERMUTATIONS,
    Change,
    beginning,
    changes,
    foreign,
    name_only,
    noise,
    unnamed,
    without,
)  # fmt: skip
from trainer.measure.controls_tasks import aliased, dealt_names, halved, hidden, renamed
from trainer.measure.rates_read import Words
from trainer.measure.record import Message
from trainer.tasks.starter import starter_tasks
from trainer.tasks.task import Task

TASKS = starter_tasks("test", 40, 0)
WORDS = Words(STARTER_STUDENT / "tokenizer.json")


class Letters:
    """A language of letters."""

    def ids(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def of_kind(found: Sequence[Change], kind: str) -> list[Change]:
    return [c for c in found if c.kind == kind]


def test_every_token_is_deleted_replaced_and_moved_once() -> None:
    found = changes([Letters().ids("abc")], Letters())
    assert [(c.place, chr(c.symbol), c.text) for c in of_kind(found, "deletion")] == [
        (0, "a", "bc"), (1, "b", "ac"), (2, "c", "ab"),
    ]  # fmt: skip
    assert [c.text for c in of_kind(found, "swap")] == ["bac", "acb"]
    replaced = of_kind(found, "substitution")
    assert len(replaced) == 3
    assert all(sum(x != y for x, y in zip(c.text, "abc", strict=True)) == 1 for c in replaced)
    assert all(c.text[c.place] in "abc" for c in replaced)
    mixed = of_kind(found, "permutation")
    assert len(mixed) == PERMUTATIONS
    assert all(sorted(c.text) == ["a", "b", "c"] and c.text != "abc" for c in mixed)


def test_a_message_of_one_repeated_token_cannot_be_moved_about() -> None:
    found = changes([Letters().ids("aaa")], Letters())
    assert {c.kind for c in found} == {"deletion"}  # nothing else to put there, and no order


def test_a_beginning_is_the_rounded_share() -> None:
    assert [len(beginning(range(10), s)) for s in (0, 0.04, 0.05, 0.25, 1)] == [0, 0, 1, 3, 10]


def test_a_part_is_removed_wherever_it_stands() -> None:
    assert without([1, 2, 3, 1, 2, 2], [1, 2]) == [3, 2]
    assert without([1, 2], []) == [1, 2]


def test_foreign_messages_are_dealt_round_and_noise_keeps_the_lengths() -> None:
    assert [m.text for m in foreign([Message("a", 1), Message("b", 1)], 3).messages] == ["a", "b", "a"]
    sent = noise([Letters().ids("aab"), [], Letters().ids("b")], Letters()).messages
    assert [len(m.text) for m in sent] == [3, 0, 1] and set("".join(m.text for m in sent)) <= {"a", "b"}


def test_a_message_loses_the_functions_name_and_nothing_else() -> None:
    task = TASKS[0]
    ids = WORDS.ids(f"{task.entry_point} number % 5 append")
    assert unnamed([task], [ids], WORDS) == ["number % 5 append"]
    assert name_only([task], WORDS).messages == [Message(task.entry_point, 1)]


def test_a_renamed_task_is_the_same_task() -> None:
    for task in TASKS:
        other = renamed(task, "candidate")
        assert other.entry_point == "candidate" and other.text == task.text
        world: dict[str, Any] = {}
        exec(other.reference, world)
        assert task.entry_point not in world
        for test in other.tests:
            exec(test, world)


def test_only_names_are_renamed() -> None:
    task = Task(
        "t",
        "",
        "def f(x):",
        "f",
        'def f(x):\n    return "f" + x.f + off(x)  # f\n',
        ("assert f('f') == g.f",),
    )
    other = renamed(task, "h")
    assert other.signature == "def h(x):"
    assert other.reference == 'def h(x):\n    return "f" + x.h + off(x)  # f\n'
    assert other.tests == ("assert h('f') == g.h",)
    with pytest.raises(ValueError, match="no Python name"):
        renamed(task, "a b")


def test_names_are_dealt_so_that_nobody_keeps_his_own() -> None:
    dealt = dealt_names(TASKS)
    assert all(new != task.entry_point for new, task in zip(dealt, TASKS, strict=True))
    assert set(dealt) <= {task.entry_point for task in TASKS}


def test_a_program_answers_to_the_name_that_is_asked_for() -> None:
    assert aliased("def g(n):\n    return n", "f").endswith("\n\nf = g\n")
    assert aliased("def f(n):\n    return n", "f") == "def f(n):\n    return n"
    assert aliased("def (", "f") == "def ("


def test_halves_and_hidden_tests_are_other_tests_of_the_same_function() -> None:
    task = TASKS[0]
    first, second = halved(task) or (None, None)
    assert first and second and first.tests + second.tests == task.tests
    assert halved(task._replace(tests=task.tests[:1])) is None
    drawn = [(each, new) for each in TASKS if (new := hidden(each))]
    assert len(drawn) >= 38  # a function that hardly ever answers otherwise has no other tests
    for each, new in drawn:
        assert len(new.tests) >= 3 and not set(new.tests) & set(each.tests)
        world: dict[str, Any] = {}
        exec(each.reference, world)
        for test in new.tests:
            exec(test, world)
    assert hidden(task._replace(task_id="mbpp/3")) is None


def effect(task: int, kind: str, symbol: str, passed: bool) -> Effect:
    return Effect(Change(task, kind, 0, ord(symbol), ""), "", passed)


def test_what_breaks_is_counted_by_kind_and_by_token() -> None:
    found = [
        effect(0, "deletion", "a", False), effect(0, "deletion", "b", True),
        effect(1, "deletion", "a", False), effect(1, "swap", "a", True), effect(0, "substitution", "a", True),
    ]  # fmt: skip
    rates = {b.kind: b for b in broken(found)}
    assert rates["deletion"].n == 3 and rates["deletion"].rate.value == pytest.approx(2 / 3)
    assert rates["swap"].rate.value == 0
    rows = importance(found, chr)
    assert [(r.text, r.n) for r in rows] == [("a", 2), ("b", 1)]
    assert rows[0].deleted and rows[0].deleted.value == 1 and rows[0].replaced and rows[0].replaced.value == 0
    assert rows[1].replaced is None
    assert needed(found) == pytest.approx((0.5 + 1) / 2)


def test_changed_messages_go_through_decoder_and_sandbox(rooms: Any) -> None:
    config = TextConfig(decoder_url=[rooms.decoder.url], sandbox_url=[rooms.sandbox.url], lora=None)
    few = TASKS[:2]
    cut = [task.reference.replace("return", "#") for task in few]
    gone = [Change(i, "deletion", 0, 0, text) for i, text in enumerate(cut)]
    kept = [Change(i, "swap", 0, 0, t.reference + "\n") for i, t in enumerate(few)]

    async def ask() -> tuple[list[Effect], list[Sent]]:
        async with Exchange(config) as exchange:
            right = few[1].reference
            sent = await send(few, [(1, right), (0, right)], exchange)
            return await effects(few, [*gone, *kept], exchange), sent

    found, sent = run(ask())
    assert [s.passed for s in sent] == [True, False], sent
    assert [e.passed for e in found] == [False, False, True, True]
    assert found[0].program == gone[0].text
