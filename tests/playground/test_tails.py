"""Large and growing files are read in parts, and what is read is what a reader of the whole would say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground import tails
from playground.tails import TaskIndex, mean_of, sampled, tail, task_name
from trainer.runs import Run

LINES = st.lists(
    st.one_of(
        st.builds(
            lambda n, text: json.dumps({"step": n, "text": text}), st.integers(0, 9), st.text(max_size=9)
        ),
        st.sampled_from(["", "{", "[1]", "7", '{"step": 1', "null"]),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(lines=LINES, torn=st.booleans(), most=st.integers(1, 400))
def test_the_tail_is_the_whole_lines_in_the_last_bytes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], torn: bool, most: int
) -> None:
    file = tmp_path_factory.mktemp("tail") / "lines.jsonl"
    data = "".join(line + "\n" for line in lines).encode() + (b'{"step": 99' if torn else b"")
    file.write_bytes(data)
    wanted, start = [], 0
    for line in data.split(b"\n")[:-1]:
        if start >= len(data) - most:
            wanted.append(line)
        start += len(line) + 1
    assert tail(file, most) == [row for line in wanted if isinstance(row := parsed(line), dict)]


def parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert tail(tmp_path / "no") == [] and sampled(tmp_path / "no") == ([], True)
    index = TaskIndex(tmp_path / "no")
    index.update()
    assert index.rows("a") == []


def test_a_small_file_is_read_whole(tmp_path: Path) -> None:
    rows = [{"step": i, "reward/mean": i / 7} for i in range(500)]
    Run(tmp_path).append("metrics.jsonl", rows)
    assert sampled(tmp_path / "metrics.jsonl") == (rows, True)


def test_of_a_hundred_thousand_steps_the_curve_is_kept_and_the_file_is_not_read_whole(tmp_path: Path) -> None:
    """The means of the blocks lie on the line the steps lie on, from the first to the last, in order."""
    filler = {f"time/{i}_s": 0.123456789 for i in range(12)}
    Run(tmp_path).append(
        "metrics.jsonl", [{"step": i, "pass_rate": i / 100_000, **filler} for i in range(100_000)]
    )
    file = tmp_path / "metrics.jsonl"
    assert file.stat().st_size > 10 * tails.WHOLE_BYTES
    start = time.process_time()
    rows, whole = sampled(file)
    # Reading all of it takes several times that long here.
    assert time.process_time() - start < 1.0
    assert not whole and len(rows) == tails.BLOCKS
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps) and steps[0] < 100 and steps[-1] > 99_900
    assert all(row["pass_rate"] == pytest.approx(row["step"] / 100_000) for row in rows)
    start = time.process_time()
    assert tail(file)[-1]["step"] == 99_999
    assert time.process_time() - start < 0.2


def test_shares_that_were_not_written_count_as_zero_and_other_figures_as_absent() -> None:
    rows = [{"step": 1, "verdict/failed": 0.5, "kl": 2.0, "on": True, "name": "x"}, {"step": 3}]
    assert mean_of(rows) == {"step": 2.0, "verdict/failed": 0.25, "kl": 2.0}


def test_an_index_follows_a_file_that_grows_and_one_that_is_begun_anew(tmp_path: Path) -> None:
    run, file = Run(tmp_path), tmp_path / "heldout.jsonl"
    index = TaskIndex(file)
    run.append(file.name, [{"step": 0, "task_id": 'a"\u202e/1'}, {"step": 0, "task_id": "b"}])
    index.update()
    run.append(file.name, [{"step": 2, "task_id": "b", "message": "é" * 50}])
    with file.open("ab") as torn:
        torn.write(b'{"step": 4, "task_id": "b"')
    index.update()
    assert set(index.places) == {'a"\u202e/1', "b"}
    assert [row["step"] for row in index.rows("b")] == [0, 2]
    with file.open("ab") as rest:
        rest.write(b', "x": 1}\n')
    index.update()
    assert [row["step"] for row in index.rows("b")] == [0, 2, 4]
    file.unlink()
    run.append(file.name, [{"step": 7, "task_id": "c"}])
    index.update()
    assert set(index.places) == {"c"} and index.rows("c")[0]["step"] == 7


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"step": 1, "task_id": "a\\u0041\\"b"}', 'aA"b'),
        ('{"task_id": "late", "step": 1}', "late"),
        ('{"step": 1, "split": "validation", "place": 3}', "validation/3"),
        ('{"step": 1, "place": 3}', "train/3"),
        ('{"step": 1, "task_id": 7}', ""),
        ("[1]", ""),
        ("{", ""),
    ],
)
def test_a_line_says_which_task_it_is_of(line: str, name: str) -> None:
    assert task_name(line.encode()) == name
