"""The report holds what was recorded, says what was not, loads nothing, and no message breaks it."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trainer.measure.folder import checkpoint_folder, latest_by_step, read_run
from trainer.measure.progress import TOKENS, series
from trainer.measure.report import add_arguments, command, report_html


class Elements(HTMLParser):
    """Collects what a browser would see as elements and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return command(parser.parse_args([str(word) for word in words]))


def test_the_report_loads_nothing_and_runs_nothing(finished: Path) -> None:
    text = report_html([read_run(finished)])
    for tag, attrs in Elements(text).found:
        assert tag not in (
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "a",
            "use",
            "image",
        )
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "href", "xlink:href")]
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    assert "://" not in text


def test_every_element_is_closed(finished: Path) -> None:
    assert Elements(report_html([read_run(finished)])).open == []


def test_hostile_text_is_shown_and_marked_but_never_acts(finished: Path) -> None:
    text = report_html([read_run(finished)])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for raw in ("<script", "\u202e", "\u200b", "\x1b", "\ud800", "</style><b>"):
        assert raw not in text
    assert ">U+202E</span>" in text and ">ZWSP</span>" in text
    text.encode("utf-8")


def test_every_section_is_there(finished: Path) -> None:
    text = report_html([read_run(finished)])
    for title in (
        "Pass rate against tokens",
        "Over the steps",
        "Verdicts and seconds",
        "How the messages evolved",
        "Examples",
        "By part of the task",
        "The language",
        "Where this comes from",
    ):
        assert f"<h2>{title}</h2>" in text
    assert "100.0 %" in text and "3.00×" in text  # the student's pass rate, and 30 / 10 tokens
    assert "psuedoptimal evaluate" in text and "0 of 1" in text and "network" in text


def test_a_run_that_recorded_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    text = report_html([read_run(tmp_path)])
    assert text.count("not recorded") >= 6
    assert Elements(text).open == []


def test_metrics_of_an_older_version_leave_gaps_not_errors(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "pass_rate": null}\n{"step": 2, "message/tokens": 4}\n'
        '[1]\n{"step": "x"}\n{"step": 3, "pass_rate": "?"}\n'
    )
    found = read_run(tmp_path)
    assert series(found, TOKENS) == [(2, 4)]
    report_html([found])


def test_several_runs_share_one_report(finished: Path) -> None:
    text = report_html([read_run(finished), read_run(finished)])
    assert "Medians over the runs" in text and "median of 2 runs" in text
    assert Elements(text).open == []


def test_a_run_that_was_not_evaluated_is_no_second_seed(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text((finished / "metrics.jsonl").read_text())
    for runs in ([finished, other], [other, finished]):
        text = report_html([read_run(run) for run in runs])
        assert "95 %: 51 to 100 %" in text and "test split, greedy; 1 of 2 runs evaluated" in text
        assert "seeds: " not in text and "edian" not in text
    text = report_html([read_run(run) for run in (finished, other, finished)])
    assert "median of 2 runs; 2 of 3 runs evaluated" in text and "seeds: 100 to 100 %" in text


def test_runs_evaluated_on_different_tasks_have_no_median(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(finished, tmp_path / "other")
    evaluation = json.loads((other / "evaluation.json").read_text())
    evaluation["tasks"]["sha256"] = "cd"
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    assert run(finished, other) == 2
    said = capsys.readouterr().err
    assert f"{finished} and {other}: evaluated on different tasks" in said and "same --n" in said
    assert not (finished / "report.html").exists()


def test_the_command_writes_the_report_and_the_picture(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = finished / "tradeoff.svg"
    assert run(finished, "--svg", picture) == 0
    assert (finished / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert picture.read_text(encoding="utf-8").startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert capsys.readouterr().out.split("\n")[:2] == [str(finished / "report.html"), str(picture)]


def test_several_runs_get_a_report_each_that_shows_all_with_its_own_samples(
    finished: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text((finished / "metrics.jsonl").read_text())
    assert run(other, finished) == 0
    for folder in (other, finished):
        text = (folder / "report.html").read_text(encoding="utf-8")
        assert "other" in text and "&lt;run&gt;" in text
        assert f"What follows is of {'other' if folder == other else '&lt;run&gt;'}." in text


def test_a_folder_without_a_run_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_an_evaluation_of_another_version_is_named_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text('{"rows": [{"sender": "x"}]}')
    assert run(tmp_path) == 2
    assert "of another version" in capsys.readouterr().err


def test_lines_with_values_of_the_wrong_kind_are_shown_as_they_are(tmp_path: Path) -> None:
    lines = [
        {"step": i, "task_id": 7, "message": None, "tokens": "many", "program": ["x"], "outcome": {"a": 1}}
        for i in range(3)
    ]
    for name in ("episodes.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "verdict/passed": "all", "time/step_s": null}\n')
    assert Elements(report_html([read_run(tmp_path)])).open == []


def test_anchors_are_no_messages_of_the_student(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    said = [("own", {}), ("helped", {"anchor": True}), ("own too", {"anchor": False})]
    (tmp_path / "episodes.jsonl").write_text(
        "".join(json.dumps({"step": 1, "task_id": "t", "message": m, **more}) + "\n" for m, more in said)
    )
    assert [line["message"] for line in read_run(tmp_path).episodes] == ["own", "own too"]


def test_a_picture_of_nothing_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert run(tmp_path, "--svg", tmp_path / "x.svg") == 2
    assert "psuedoptimal evaluate" in capsys.readouterr().err


def test_lines_of_one_step_are_merged_and_the_later_wins() -> None:
    lines = [
        {"step": 2, "a": 1},
        {"step": 1, "a": 0},
        {"step": 2, "b": 3},
        {"step": 2, "a": 5},
        {"step": True, "a": 9},
    ]
    assert latest_by_step(lines) == [{"step": 1, "a": 0}, {"step": 2, "a": 5, "b": 3}]


def test_a_checkpoint_is_found_by_name_by_step_and_by_age(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-100"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert checkpoint_folder(tmp_path, "last").name == "checkpoint-100"
    assert checkpoint_folder(tmp_path, "9").name == "checkpoint-9"
    assert checkpoint_folder(tmp_path, "best").name == "checkpoint-100"  # none was marked
    (tmp_path / "checkpoints" / "checkpoint-9" / "complete.json").write_text("{}")
    assert checkpoint_folder(tmp_path, "last").name == "checkpoint-9"  # the other was cut short
    (tmp_path / "checkpoints" / "best").mkdir()
    assert checkpoint_folder(tmp_path, "best").name == "best"
    with pytest.raises(FileNotFoundError, match="there are: 9"):
        checkpoint_folder(tmp_path, "50")
