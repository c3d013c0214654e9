"""The front of a sweep against values worked by hand; what a sweep refuses, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer import cli_sweep
from trainer.cli import main, make_parser
from trainer.cli_sweep import planned
from trainer.config import dump_yaml, resolve
from trainer.config_text import TextConfig
from trainer.measure.folder import RunFolder
from trainer.measure.sweep import as_markdown, as_text, figure, swept


def run(name: str, tokens: int, passed: int, tasks: str = "ab") -> RunFolder:
    """A run whose student passes `passed` of ten tasks; untrained takes 20 tokens, the reference 40."""
    said = {"student": (tokens, passed), "untrained student": (20, 9), "reference": (40, 10)}
    records = {
        sender: [
            {"tokens": length, "outcome": "passed" if i < right else "failed", "refused": ""}
            for i in range(10)
        ]
        for sender, (length, right) in said.items()
    }
    return RunFolder(Path(name), evaluation={"tasks": {"sha256": tasks}, "records": records})


SETTINGS = {
    "target=0.5": [run("a", 4, 5), run("b", 6, 5)],
    "target=0.9": [run("c", 10, 10), run("d", 10, 9)],
    "worse <b>": [run("e", 12, 6), run("f", 12, 6)],
}


def test_a_setting_is_the_mean_of_its_seeds_and_the_front_leaves_the_beaten_out() -> None:
    found = swept(SETTINGS)
    assert [(p.bits.value, p.pass_rate.value, p.runs) for p in found.points.values()] == [
        (5, 0.5, 2), (10, 0.95, 2), (12, 0.6, 2),
    ]  # fmt: skip
    assert found.on_front == ["target=0.5", "target=0.9"]
    # Of 40 tokens, the first 5 reach nothing, the next 5 reach 0.5, the other 30 reach 0.95.
    assert found.front.area.value == pytest.approx((5 * 0.5 + 30 * 0.95) / 40)
    assert found.front.tokens_at is not None and found.front.tokens_at.value == 10


def test_table_and_figure_name_every_setting_and_who_stands_beside() -> None:
    found = swept(SETTINGS)
    lines = as_text(found).splitlines()
    assert [line.split("  ")[0] for line in lines[2:7]] == [*SETTINGS, "untrained student", "reference"]
    assert lines[2].split()[-2:] == ["4.00x", "yes"] and lines[4].split()[-2:] == ["1.67x", "no"]
    assert as_markdown(found).startswith("| setting | seeds |")
    drawn = figure(found, {name: name[:5] for name in SETTINGS})
    assert drawn.count("<circle") == 5 and "worse &lt;b&gt;" in drawn and "<b>" not in drawn


def test_runs_that_were_not_evaluated_or_on_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="g: evaluated on other tasks than a"):
        swept({**SETTINGS, "x": [run("g", 1, 1, "cd")]})
    with pytest.raises(ValueError, match="run `psuedoptimal evaluate h` first"):
        swept({"x": [RunFolder(Path("h"))]})


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (["reward=rato"], "--point 'reward=rato': reward='rato': input should be 'ratio'"),
        (["rewrd=ratio"], "did you mean reward?"),
        (["budget"], "'budget' is no NAME=VALUE"),
        ([" "], "give at least one NAME=VALUE"),
        (["seed=3"], "use --seeds and FOLDER"),
        (["reward = ratio"], "'reward' is no NAME=VALUE"),
        (["budget=8", "budget='8'"], "the same run folder"),
        (["trl={a"], "--point 'trl={a': '{a' is not YAML (expected ',' or '}'"),
        (["trl=2026-13-45"], "'2026-13-45' is not YAML (month must be"),
        (["reward='x"], "No closing quotation; close the quote, or leave it out"),
        (["reward=ratio", "heldout_tasks=6"], "heldout_tasks=6, where 'reward=ratio' has 240"),
        (
            ["generator_model=starter", "generator_model=echo"],
            "'generator_model=echo': generator_model='echo'",
        ),
        (["reward=ratio", "sandbox_url=[http://a:1]"], "sandbox_url=['http://a:1'], where"),
        (["reward=ratio", "num_generations=7"], "'num_generations=7': num_generations=7 does not divide"),
    ],
)
def test_a_point_that_is_none_is_refused_by_its_name(
    points: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    flags = [word for point in points for word in ("--point", point)]
    assert main(["sweep", str(tmp_path / "sweep"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("place", "said"), [(".", "is a folder"), ("no/front.svg", "there is no folder")])
def test_a_figure_that_cannot_be_written_is_said_before_anything_is_trained(
    place: str, said: str, tmp_path: Path, capsys: Any
) -> None:
    words = ["sweep", str(tmp_path / "sweep"), "--point", "reward=ratio"]
    assert main([*words, "--svg", str(tmp_path / place)]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "sweep").exists()


def test_a_finished_sweep_that_cannot_be_shown_says_why(tmp_path: Path, capsys: Any) -> None:
    words = [str(tmp_path), "--point", "reward=ratio", "--seeds", "1,2"]
    for trial in planned(make_parser("sweep", cli_sweep).parse_args(words)):
        trial.folder.mkdir()
        (trial.folder / "config.yaml").write_text(dump_yaml(trial.config), encoding="utf-8")
        (trial.folder / "summary.json").write_text("{}", encoding="utf-8")
        found = run("x", 4, 5, tasks="ab" if trial.seed == 1 else "cd").evaluation
        (trial.folder / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")
    assert main(["sweep", *words, "--svg", str(tmp_path / "front.svg")]) == 2
    assert "seed2: evaluated on other tasks than" in capsys.readouterr().err
    (tmp_path / "reward-ratio-seed2" / "evaluation.json").write_text(json.dumps(run("x", 4, 5).evaluation))
    assert main(["sweep", *words]) == 0 and (tmp_path / "front.svg").is_file()


@pytest.mark.parametrize("flag", ["--max-steps", "--heldout-tasks"])
def test_no_step_and_no_task_are_numbers_too_and_are_refused(flag: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", str(tmp_path / "sweep"), "--point", "reward=ratio", flag, "0"])
    assert flag in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_run_with_other_settings_is_never_taken_for_the_sweeps(tmp_path: Path, capsys: Any) -> None:
    there = tmp_path / "reward-ratio-seed1"
    there.mkdir()
    config = resolve(TextConfig, [Path("starter-text.yaml")], {"reward": "ratio", "max_steps": 7})
    (there / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    assert main(["sweep", str(tmp_path), "--point", "reward=ratio", "--max-steps", "8"]) == 2
    assert "a run with other settings (max_steps)" in capsys.readouterr().err
