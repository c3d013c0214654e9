"""Conversations and hidden states: what is wrong with a file is said by its name and the row's id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from trainer.config import ConfigError
from trainer.tasks.conversations import read_conversations, split
from trainer.tasks.hidden_states import load_hidden_states


def row(name: str, *turns: tuple[str, str]) -> dict[str, Any]:
    given = turns or (("human", "Sort 3, 1, 2."), ("gpt", "1, 2, 3."))
    return {"id": name, "conversations": [{"from": who, "value": text} for who, text in given]}


def written(folder: Path, rows: Any, name: str = "data.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def test_every_role_of_the_seed_is_read(tmp_path: Path) -> None:
    turns = (("system", "s"), ("human", "h"), ("gpt", "g"), ("user", "u"), ("assistant", "a"))
    (found,) = read_conversations(written(tmp_path, [row("x", *turns)]))
    assert [turn.role for turn in found.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert [turn.content for turn in found.asked] == ["s", "h"]


def test_a_line_ends_at_a_line_feed_only_and_a_bad_one_is_named(tmp_path: Path) -> None:
    said, file = "a\u2028b\u2029c\u0085d", tmp_path / "data.jsonl"
    lines = [json.dumps(row(name, ("human", said), ("gpt", said)), ensure_ascii=False) for name in "ab"]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert [found.turns[0].content for found in read_conversations(file)] == [said, said]
    file.write_text("\n".join([*lines, "{"]), encoding="utf-8")
    with pytest.raises(ConfigError, match="line 3: not JSON"):
        read_conversations(file)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"conversations": []}, "no `id`"),
        ({"id": "b", "conversations": []}, "at least one turn"),
        (row("b", ("robot", "x"), ("gpt", "y")), "turn 0 is from 'robot'"),
        (row("b", ("gpt", "y")), "no human turn"),
        (row("b", ("human", "y")), "nothing to learn from"),
        ({"id": "b", "conversations": [{"from": "human", "value": 3}]}, "turn 0"),
        (row("b", ("human", "x" * 200_001), ("gpt", "y")), "turn 0 has 200001 characters; at most 200000"),
        (row("b", *[("human", "x"), ("gpt", "y")] * 501), "1002 turns; a conversation has at most 1000"),
        ({**row("b"), "plan": "x" * 200_001}, "its plan has 200001 characters"),
        (row("a"), "twice"),
    ],
)
def test_a_bad_row_is_named_by_file_and_id(tmp_path: Path, bad: Any, said: str) -> None:
    file = written(tmp_path, [row("a"), bad])
    with pytest.raises(ConfigError) as caught:
        read_conversations(file)
    text = str(caught.value)
    assert str(file) in text
    assert said in text
    assert (f"id {bad['id']!r}" if "id" in bad else "row 1") in text


def test_the_split_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    rows = read_conversations(written(tmp_path, [row(str(n)) for n in range(40)]))
    one, same, other = split(rows, 0.1, 1), split(rows, 0.1, 1), split(rows, 0.1, 2)
    assert one == same
    assert one != other
    assert len(one.evaluation) == 4
    assert sorted([*one.train, *one.evaluation]) == sorted(rows)


def test_one_conversation_cannot_be_split_and_says_how_it_can_be_trained_on(tmp_path: Path) -> None:
    rows = read_conversations(written(tmp_path, [row("toy-1")]))
    with pytest.raises(ConfigError, match=r"1 conversation cannot be split.*--eval_ratio 0"):
        split(rows, 0.05, 42)
    assert split(rows, 0.0, 42).train == rows


def states(length: int) -> list[list[float]]:
    return [[float(10 * place + column) for column in range(4)] for place in range(length)]


@pytest.mark.parametrize("key", ["id", "task_id"])
@pytest.mark.parametrize("splits", [False, True])
def test_hidden_states_are_found_by_either_id_in_a_data_set_with_or_without_splits(
    tmp_path: Path, key: str, splits: bool
) -> None:
    made = Dataset.from_dict({key: ["a", "b"], "hidden_state": [states(2), states(5)], "plan": ["p", None]})
    whole = DatasetDict({"train": made.select([0]), "test": made.select([1])}) if splits else made
    whole.save_to_disk(str(tmp_path / "hidden"))
    found = load_hidden_states(str(tmp_path / "hidden"))
    assert (found.plan("a"), found.plan("b")) == ("p", "")
    # The first K rows; a shorter plan is repeated to K.
    np.testing.assert_array_equal(found.states("b", 3, 4), np.array(states(5))[:3])
    np.testing.assert_array_equal(found.states("a", 5, 4), np.array(states(2))[[0, 1, 0, 1, 0]])
    assert found.missing(["a", "c", "b", "d"]) == ["c", "d"]
    with pytest.raises(ConfigError, match=r"2 of the 3 ids of data.json have no hidden_state: 'c', 'd'"):
        found.require(["a", "c", "d"], "data.json")
    with pytest.raises(ConfigError, match=r"id 'a': hidden_state has shape \[2, 4\], needed is \[L, 7\]"):
        found.states("a", 3, 7)


def test_what_is_no_data_set_of_hidden_states_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        load_hidden_states(str(tmp_path))
    Dataset.from_dict({"id": ["a"], "states": [[1.0]]}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="has id, states; needed are"):
        load_hidden_states(str(tmp_path / "other"))
    bad = Dataset.from_dict({"id": ["a"], "hidden_state": [[[float("nan")] * 4]]})
    bad.save_to_disk(str(tmp_path / "bad"))
    with pytest.raises(ConfigError, match="id 'a': hidden_state holds a value that is not finite"):
        load_hidden_states(str(tmp_path / "bad")).states("a", 1, 4)
