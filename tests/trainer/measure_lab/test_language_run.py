"""The verb `language` on run folders whose messages are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.cli import main
from trainer.config_text import STARTER_STUDENT
from trainer.measure.language import describe
from trainer.measure.rates_read import Words
from trainer.measure.tables import finite
from trainer.tasks.starter import starter_tasks

TASKS = starter_tasks("test", 12, 0)
WORDS = Words(STARTER_STUDENT / "tokenizer.json")


def write(folder: Path, said: list[str], looks: dict[int, list[str]]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("student_model: starter\ntarget_pass_rate: 0.9\n")
    (folder / "summary.json").write_text('{"channel": "text"}')
    language = describe(TASKS, said, [WORDS.ids(text) for text in said], most=12).as_json()
    records = [{"task_id": t.task_id, "message": text} for t, text in zip(TASKS, said, strict=True)]
    evaluation = {
        "language": {"student": language},
        "records": {"student": records},
        "tasks": {"sha256": "a"},
    }
    (folder / "evaluation.json").write_text(json.dumps(finite(evaluation)))
    lines = [
        {"step": step, "split": "validation", "task_id": t.task_id, "message": text}
        for step, texts in looks.items()
        for t, text in zip(TASKS, texts, strict=True)
    ]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


CODE = [task.reference for task in TASKS]
SHORT = [" ".join(task.reference.split()[-3:]) for task in TASKS]


def test_it_tells_how_far_each_look_is_from_the_last(tmp_path: Path, capsys: Any) -> None:
    run = write(tmp_path / "a", SHORT, {0: CODE, 10: SHORT, 20: SHORT})
    assert main(["language", str(run), "--json"]) == 0
    first, second, third = json.loads(capsys.readouterr().out)["runs"][0]["checkpoints"]
    assert first["since"] is None and first["to_last"]["same"] == 0 and first["to_last"]["distance"] > 0.5
    assert second["since"]["same"] == 0 and second["to_last"]["same"] == third["to_last"]["same"] == 1
    assert third["since"]["distance"] == 0 < third["since"]["by_chance"]
    assert first["tokens"] > third["tokens"]


def test_it_tells_how_alike_two_seeds_are(tmp_path: Path, capsys: Any) -> None:
    runs = [write(tmp_path / name, said, {}) for name, said in (("a", SHORT), ("b", SHORT), ("c", CODE))]
    assert main(["language", *map(str, runs), "--json"]) == 0
    alike, apart, _ = json.loads(capsys.readouterr().out)["seeds"]
    assert alike["runs"] == ["a", "b"] and alike["same"] == 1 and alike["distance"] == 0
    assert apart["runs"] == ["a", "c"] and apart["same"] == 0 and apart["distance"] > 0.5
    assert main(["language", str(runs[0])]) == 0
    assert "Zipf's slope" in capsys.readouterr().out


def test_a_run_of_an_older_version_is_sent_back(tmp_path: Path, capsys: Any) -> None:
    run = write(tmp_path / "a", SHORT, {})
    stored = json.loads((run / "evaluation.json").read_text())
    del stored["language"]["student"]["zipf"]
    (run / "evaluation.json").write_text(json.dumps(stored))
    assert main(["language", str(run)]) == 2
    assert f"psuedoptimal evaluate {run}" in capsys.readouterr().err
