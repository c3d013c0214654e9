"""The list of runs: what is one, what it is at, and that no URL names anything else."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from playground.folders import Folders, lock_held, state_of
from shared.errors import NotFound
from trainer.config import resolve
from trainer.config_text import TextConfig
from trainer.runs import Run


def begun(root: Path, name: str, **settings: object) -> Run:
    """A run folder as the trainer begins one."""
    layer = {"dataset": "starter", "student_model": "starter", "max_steps": 50, **settings}
    return Run.create(root, name, resolve(TextConfig, [], layer))


def aged(run: Run, seconds: float) -> None:
    for file in run.folder.iterdir():
        if file.is_file():
            os.utime(file, (time.time() - seconds,) * 2)


@pytest.mark.parametrize("verb", ["metrics.jsonl", "summary.json", "evaluation.json", "controls.json"])
def test_a_page_that_was_remembered_is_made_anew_when_a_verb_has_written(tmp_path: Path, verb: str) -> None:
    run = begun(tmp_path, "a")
    before = Folders(tmp_path).stamps("a")
    assert Folders(tmp_path).stamps("a") == before
    (run.folder / verb).write_text("{}", encoding="utf-8")
    assert Folders(tmp_path).stamps("a") != before


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../secret", "/etc", "no-such", "logs", "n" * 300])
def test_only_a_run_right_below_the_folder_can_be_named(tmp_path: Path, name: str) -> None:
    begun(tmp_path / "runs", "a")
    begun(tmp_path, "secret")
    shutil.copytree(tmp_path / "secret", tmp_path / "runs" / "a" / "b")
    (tmp_path / "runs" / "logs").mkdir()
    folders = Folders(tmp_path / "runs")
    assert folders.names() == ["a"]
    with pytest.raises(NotFound, match="no run"):
        folders.path(name)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read every folder: be another user meanwhile."""
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


def test_a_folder_that_cannot_be_read_hides_itself_only() -> None:
    with tempfile.TemporaryDirectory() as place:
        root, closed = Path(place), Path(place) / "lost+found"
        root.chmod(0o755)
        checkpoints = begun(root, "a").folder / "checkpoints"
        for folder in (closed, checkpoints):
            folder.mkdir(exist_ok=True)
            folder.chmod(0)
        with as_nobody():
            folders = Folders(root)
            assert folders.names() == ["a"] and not folders.card("a").has_student
            with pytest.raises(NotFound):
                folders.path("lost+found")
        for folder in (closed, checkpoints):
            folder.chmod(0o700)


def test_a_run_is_running_while_its_lock_is_held_and_only_then(tmp_path: Path) -> None:
    run = begun(tmp_path, "a")
    with run.held():
        aged(run, 3600)
        if not lock_held(run.folder / "run.lock"):
            pytest.skip("this system does not show its locks in /proc/locks")
        assert Folders(tmp_path).card("a").state == "running"
    assert Folders(tmp_path).card("a").state == "stopped"


def test_looking_at_a_run_never_keeps_a_trainer_out(tmp_path: Path) -> None:
    run = begun(tmp_path, "a")
    Folders(tmp_path).card("a")
    with run.held():
        assert state_of(run.folder, 0.0) in ("running", "stopped")


def test_a_run_that_wrote_just_now_is_running_until_it_has_a_summary(tmp_path: Path) -> None:
    run, folders = begun(tmp_path, "a"), Folders(tmp_path)
    assert folders.card("a").state == "running"
    run.write_json("summary.json", {"channel": "text", "heldout": {"n": 4, "pass_rate": 0.75}})
    card = folders.card("a")
    assert (card.state, card.channel, card.heldout["pass_rate"]) == ("finished", "text", 0.75)


def test_a_card_says_what_the_run_says_and_follows_it(tmp_path: Path) -> None:
    run, folders = begun(tmp_path, "a"), Folders(tmp_path)
    assert (folders.card("a").step, folders.card("a").steps, folders.card("a").channel) == (None, 50, "text")
    run.append("metrics.jsonl", [{"step": 1, "pass_rate": 0.5}, {"step": 2, "pass_rate": 0.25}])
    card = folders.card("a")
    assert (card.step, card.figures["pass_rate"]) == (2, 0.25)
    run.append("evaluations.jsonl", [{"step": 2, "split": "validation", "pass_rate": 1.0, "tokens": 9.5}])
    assert folders.card("a").heldout["tokens"] == 9.5


@pytest.mark.parametrize("text", ["a: [", "\x00\x01", "- 1\n- 2\n", "", "!!python/object:os.system {}"])
def test_a_run_whose_settings_cannot_be_read_is_listed_all_the_same(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text(text)
    (tmp_path / "a" / "summary.json").write_text("{")
    folders = Folders(tmp_path)
    assert folders.card("a").channel == "" and folders.config("a") == {}


def test_hundreds_of_runs_are_listed_fast(tmp_path: Path) -> None:
    line = '{"step": 1, "pass_rate": 0.5, "message/tokens": 12.25}\n'
    settings = begun(tmp_path, "run-0").folder.joinpath("config.yaml").read_text()
    for number in range(400):
        folder = tmp_path / f"run-{number}"
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(settings)
        (folder / "metrics.jsonl").write_text(line * 2000)
    folders, start = Folders(tmp_path), time.process_time()
    cards = [folders.card(name) for name in folders.names()]
    first, start = time.process_time() - start, time.process_time()
    assert len(cards) == 400 and {card.step for card in cards} == {1}
    assert [folders.card(name).step for name in folders.names()] == [1] * 400
    again = time.process_time() - start
    assert first < 5 and again < 0.5, (first, again)
