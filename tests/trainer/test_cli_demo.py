"""`demo`: what it leaves behind names nothing that is gone, and what is left of it is said."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.cli_verbs import Trained, closing, tell_rest
from trainer.config import resolve
from trainer.config_text import TextConfig
from trainer.measure.evaluation_file import command_line

SMALL = {
    "dataset": "starter", "generator_model": "echo", "lora": None, "train_tasks": 4, "validation_tasks": 2,
    "batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 2, "max_completion_length": 4,
    "device": "cpu", "save_steps": 1,
}  # fmt: skip


@pytest.mark.slow
def test_what_the_demo_leaves_behind_names_no_service_that_is_gone(
    tmp_path: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("SANDBOX_JAIL", "process")
    config, runs = tmp_path / "small.yaml", tmp_path / "runs"
    config.write_text(json.dumps({**SMALL, "student_model": str(student_folder)}), encoding="utf-8")
    flags = ["--config", str(config), "--runs", str(runs), "--max-steps", "1", "--heldout-tasks", "2"]
    assert main(["demo", *flags, "--json"]) == 0
    tables = json.loads(capfd.readouterr().out)
    folder = next(path for path in runs.iterdir() if path.name.endswith("-seed1"))
    assert list(tables["runs"]) == [str(folder)]
    saved = resolve(TextConfig, [folder / "config.yaml"], {})
    assert (saved.name, saved.decoder_url, saved.sandbox_url, saved.seed) == (None, None, None, 1)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["command"] == f"psuedoptimal evaluate {folder} --json"
    assert evaluation["services"]["decoder"] == "started for this evaluation"
    for name in ("config.yaml", "evaluation.json", "summary.json", "report.html"):
        assert "http://127.0.0.1" not in (folder / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("flag", ["--max-steps", "--heldout-tasks"])
def test_nothing_is_a_number_too_and_is_refused(flag: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["demo", "--runs", str(tmp_path), flag, "0"]) == 2
    assert flag.removeprefix("--").replace("-", "_") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_left_of_a_demo_is_said_as_commands_that_parse(tmp_path: Path, capsys: Any) -> None:
    folders = {seed: tmp_path / f"demo-seed{seed}" for seed in (1, 2, 3)}
    folders[1].mkdir()
    (folders[1] / "summary.json").touch()
    folders[2].mkdir()
    args = argparse.Namespace(config=Path("starter-text.yaml"), runs=tmp_path)
    tell_rest("text", {folder: Trained(seed) for seed, folder in folders.items()}, args, ["--max-steps=4"])
    left = capsys.readouterr().err.splitlines()[1:]
    both = f"{folders[1]} {folders[2]}"
    assert [line.strip() for line in left] == [
        f"psuedoptimal train text --resume {folders[2]}",
        f"psuedoptimal evaluate {both}",
        f"psuedoptimal report {both}",
        f"psuedoptimal demo --seeds 3 --config starter-text.yaml --runs {tmp_path} --max-steps=4",
    ]
    tell_rest("text", {tmp_path / "none": Trained(1)}, args, [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("root", "set_before"), [("runs", ""), ("my runs", "PLAYGROUND_RUNS='my runs' ")])
def test_at_its_end_it_says_what_shows_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, root: str, set_before: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(root) / "demo-seed1"
    run.mkdir(parents=True)
    (run / "summary.json").write_text('{"seconds": {"train": 2.0, "evaluate": 1.0}}')
    closing([run], 4.0)
    assert capsys.readouterr().err.splitlines() == [
        f"{run}: 3 s; report: {run}/report.html",
        f"all of it: 4 s; `{set_before}psuedoptimal serve playground` shows the runs",
    ]


def test_of_students_that_train_at_once_and_of_several_sizes_each_is_named(
    tmp_path: Path, capsys: Any
) -> None:
    students = {tmp_path / f"k{k}-seed{seed}": Trained(seed, k) for k in (2, 4) for seed in (1, 2)}
    at_work = list(students)[:2]
    for folder in at_work:
        folder.mkdir()
    tell_rest("latent", students, argparse.Namespace(config=Path("c.yaml"), runs=tmp_path), [])
    left = [line.strip() for line in capsys.readouterr().err.splitlines()[1:]]
    assert left[:2] == [f"psuedoptimal train latent --resume {folder}" for folder in at_work]
    assert left[-1] == f"psuedoptimal demo latent --seeds 1,2 --K 4 --config c.yaml --runs {tmp_path}"


@pytest.mark.parametrize(
    ("argv", "unsaved", "said"),
    [
        ("evaluate a --decoder-url=http://x b", [], "evaluate a --decoder-url=http://x b"),
        (
            "evaluate a --decoder-url=http://x --sandbox-url http://y --json --unsaved decoder_url",
            ["decoder_url"],
            "evaluate a --sandbox-url http://y --json",
        ),
        ("evaluate a --sandbox_url x y --unsaved sandbox_url", ["sandbox_url"], "evaluate a"),
    ],
)
def test_a_command_is_noted_without_what_will_be_gone(argv: str, unsaved: list[str], said: str) -> None:
    assert command_line(shlex.split(argv), unsaved) == f"psuedoptimal {said}"
