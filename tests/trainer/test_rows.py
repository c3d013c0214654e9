"""Data sets of one's own: what is read, what is refused and where, and that what is printed can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer import hub
from trainer.cli import main
from trainer.config import ConfigError
from trainer.config_text import Data
from trainer.tasks.rows import load_file, of_split, placed
from trainer.tasks.sources import SPLITS, _from_hub, load_tasks
from trainer.tasks.starter import starter_tasks


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    given = {
        "task_id": f"own/{number}", "text": "Write a function to double a number.",
        "reference": "def twice(x: int) -> int:\n    return 2 * x\n", "tests": ["assert twice(2) == 4"],
    }  # fmt: skip
    return {key: value for key, value in (given | changes).items() if value is not ...}


def written(tmp_path: Path, *rows: Any) -> Path:
    file = tmp_path / "own.jsonl"
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_what_tasks_prints_is_read_back_as_it_was(tmp_path: Path, capsys: Any) -> None:
    assert main(["tasks", "--split", "all", "-n", "7", "--json"]) == 0
    file = tmp_path / "printed.jsonl"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    for split in SPLITS:
        assert load_tasks(Data(dataset=str(file)), split) == starter_tasks(split, 7)
    assert main(["tasks", "--dataset", str(file), "--split", "all", "-n", "7", "--json"]) == 0
    assert capsys.readouterr().out == file.read_text(encoding="utf-8")


def test_mbpps_tasks_come_back_too(data: Path, tmp_path: Path, capsys: Any) -> None:
    source = str(data / "mbpp" / "mbpp.jsonl")
    assert main(["tasks", "--dataset", source, "--split", "all", "-n", "1000", "--json"]) == 0
    file = tmp_path / "printed.jsonl"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    for split in SPLITS:
        assert load_tasks(Data(dataset=str(file)), split) == load_tasks(Data(dataset=source), split)


def test_signature_and_entry_point_are_read_off_the_reference(tmp_path: Path) -> None:
    (task,) = load_file(written(tmp_path, row()), None)
    assert (task.entry_point, task.signature) == ("twice", "def twice(x: int) -> int:")
    assert (task.setup, task.family, task.tests) == ("", "", ("assert twice(2) == 4",))


def test_rows_without_a_split_are_divided_by_their_ids_in_any_order(tmp_path: Path) -> None:
    rows = [row(number) for number in range(24)]
    found = {split: load_file(written(tmp_path, *rows), split) for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [18, 2, 4]
    ids = {split: {task.task_id for task in tasks} for split, tasks in found.items()}
    for split in SPLITS:
        again = load_file(written(tmp_path, *reversed(rows)), split)
        assert {task.task_id for task in again} == ids[split]
    three = written(tmp_path, *rows[:3])
    assert [len(load_file(three, split)) for split in SPLITS] == [1, 1, 1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(2, reference=...), "line 3: reference: missing; a row needs task_id, text, reference and tests"),
        (row(2, tests="f"), 'line 3: tests: input should be a valid list, found "f" (str)'),
        (row(2, tests=[1]), "line 3: tests.0: input should be a valid string, found 1 (int)"),
        (row(2, tests=[]), "line 3: tests: list should have at least 1 item"),
        (row(2, task_id=7), "line 3: task_id: input should be a valid string, found 7 (int)"),
        (row(2, txt="x"), "line 3: txt: no such field; did you mean text?"),
        (row(2, split="tests"), "line 3: split: input should be 'train', 'validation' or 'test'"),
        (row(2, split="test"), "line 1: split: missing, and other rows have one"),
        (row(1), "line 3: task_id='own/1' is there already, in line 1"),
        (row(2, reference="def twice(x"), "line 3: the reference is not Python"),
        (row(2, tests=["assert f("]), "line 3: a test is not Python"),
        (row(2, entry_point="f"), "line 3: the reference does not define 'f'"),
        (row(2, tests=["assert thrice(1) == 3"]), "line 3: the tests call ['thrice'], the reference defines"),
        ([1], "line 3: expected an object with task_id, text, reference and tests, found [1] (list)"),
        ('{"task_id": ', "line 3: not JSON: Expecting value"),
        ({"task_id": "601", "code": "x", "test_list": ["y"], "text": "z"}, "line 3: task_id: input"),
        ({"task_id": 601, "code": "x", "text": "z"}, "line 3: test_list: missing"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_line_field_and_kind(tmp_path: Path, bad: Any, said: str, capsys: Any) -> None:
    file = written(tmp_path, row(1), "", bad)
    assert main(["tasks", "--dataset", str(file)]) == 2
    assert f"dataset={str(file)!r}: {said}" in capsys.readouterr().err


def test_more_tasks_than_there_are_is_a_wrong_request(capsys: Any) -> None:
    assert main(["tasks", "-n", "1000000"]) == 2
    assert "dataset='starter': n=1000000: the test split gives" in capsys.readouterr().err


def test_an_entry_of_a_list_and_text_that_is_none_are_named(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps([row(1), row(2, text=3)]), encoding="utf-8")
    with pytest.raises(ValueError, match="entry 2: text: input should be a valid string"):
        load_file(file, None)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_tasks(Data(dataset=str(file)), "train")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mbp", "no such data set; did you mean mbpp?"),
        ("stater", "no such data set; did you mean starter?"),
        ("xyz", "there are starter, mbpp, .json and .jsonl files, and the hub's (OWNER/NAME)"),
        ("owm.jsonl", "no such file; did you mean own.jsonl?"),
    ],
)
def test_a_misspelt_data_set_gets_a_suggestion(
    tmp_path: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, row())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_tasks(Data(dataset=name), "train")
    assert f"dataset={name!r}: " in str(caught.value) and said in str(caught.value)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's address leads nowhere, and nothing was fetched before."""
    import datasets.config
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    hub.reachable.cache_clear()
    yield
    hub.reachable.cache_clear()


@pytest.mark.usefixtures("no_hub")
def test_without_the_hub_the_way_out_is_named_and_no_folder_is_left(tmp_path: Path, capsys: Any) -> None:
    runs = tmp_path / "runs"
    assert main(["train", "text", "--runs", str(runs)]) == 2
    said = capsys.readouterr().err
    assert "dataset='google-research-datasets/mbpp': it is not on this machine" in said
    assert "--dataset FILE.jsonl" in said and "--config starter-text.yaml" in said
    assert main(["tasks", "--dataset", "mbpp"]) == 2
    assert "--dataset starter" in capsys.readouterr().err
    own = written(tmp_path, *(row(number) for number in range(24)))
    assert main(["train", "text", "--runs", str(runs), "--dataset", str(own)]) == 2
    said = capsys.readouterr().err
    assert "student_model='Qwen/Qwen2.5-Coder-0.5B-Instruct': it is not on this machine" in said
    assert "--config starter-text.yaml" in said and "Traceback" not in said
    assert not runs.exists()


def test_a_hub_data_set_is_split_as_its_parts_are(tmp_path: Path) -> None:
    """`datasets` reads a folder as it reads a repository: a file for each part, one schema for all rows."""
    folder = tmp_path / "set"
    folder.mkdir()
    for at, part in enumerate(("train", "validation", "test")):
        rows = [row(10 * at), row(10 * at + 1, family="own")]
        (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    rows = placed((str(at), each) for at, each in enumerate(_from_hub(str(folder), "sanitized")))
    for at, part in enumerate(SPLITS):
        found = [(task.task_id, task.family) for task in of_split(rows, part)]
        assert found == [(f"own/{10 * at}", ""), (f"own/{10 * at + 1}", "own")]


def test_a_hub_data_set_of_one_part_is_divided(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    text = "\n".join(json.dumps(row(number)) for number in range(24))
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    rows = placed((str(at), each) for at, each in enumerate(_from_hub(str(folder), "sanitized")))
    assert [len(of_split(rows, part)) for part in SPLITS] == [18, 2, 4]
