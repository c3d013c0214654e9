"""A sweep that is stopped, taken up again by the same command, and shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainer import cli_sweep
from trainer.cli import main, make_parser
from trainer.cli_sweep import Trial, planned
from trainer.cli_train import new_config
from trainer.config import ConfigError, dump_yaml
from trainer.runs import Run

SMALL = {
    "dataset": "starter", "generator_model": "echo", "lora": None, "train_tasks": 4, "validation_tasks": 2,
    "heldout_tasks": 2, "batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 2,
    "max_completion_length": 4, "max_steps": 16, "device": "cpu", "save_steps": 1, "threads": 1,
    "logging_steps": 1,
}  # fmt: skip
POINT = "reward=budget budget=2 budget_start=3"


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_by_the_same_command_and_a_finished_one_is_only_shown(
    tmp_path: Path, student_folder: Path, rooms: Any, capfd: Any
) -> None:
    config, folder = tmp_path / "small.yaml", tmp_path / "sweep"
    urls = {"decoder_url": [rooms.decoder.url], "sandbox_url": [rooms.sandbox.url]}
    config.write_text(json.dumps({**SMALL, **urls, "student_model": str(student_folder)}), encoding="utf-8")
    words = ["sweep", str(folder), "--config", str(config), "--point", POINT]
    run = Run(folder / "reward-budget-budget-2-budget-start-3-seed1")
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *words], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 200
    while not any(run.rows("metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert f"run 1 of 1: {POINT}, seed 1" in said and "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"0 of 1 runs are done; go on with: psuedoptimal sweep {folder}")

    assert main(words) == 0
    assert [row["step"] for row in run.rows("metrics.jsonl")] == list(range(1, 17))
    capfd.readouterr()
    assert main([*words, "--json"]) == 0
    shown = capfd.readouterr()
    assert "run 1 of 1" not in shown.err and list(json.loads(shown.out)["settings"]) == [POINT]
    assert POINT in (folder / "front.svg").read_text(encoding="utf-8")


def planned_of(*words: str) -> list[Trial]:
    """What `psuedoptimal sweep` with these words would train."""
    return planned(make_parser("sweep", cli_sweep).parse_args(list(words)))


def test_a_sweep_of_debug_runs_takes_its_own_up_again(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(json.dumps({**SMALL, "debug": True}), encoding="utf-8")
    words = [str(tmp_path / "sweep"), "--config", str(config), "--point", POINT]
    (trial,) = planned_of(*words)
    assert (trial.config.max_steps, trial.config.train_tasks, trial.config.debug) == (4, 16, False)
    # As the child that trains it resolves what it is given.
    given = tmp_path / "given.yaml"
    given.write_text(dump_yaml(trial.config), encoding="utf-8")
    Run.create(trial.folder.parent, trial.folder.name, new_config({}, [given]))
    assert planned_of(*words) == [trial]


def test_a_sweep_trains_what_it_shows_whatever_the_environment_says_to_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, told = tmp_path / "small.yaml", {"LEARNING_RATE": "0.5", "SEED": "9", "BUDGET": "3"}
    config.write_text(json.dumps(SMALL), encoding="utf-8")
    for name, value in {**told, "DECODER_TOKEN_FILE": "/token", "DATA": "/data"}.items():
        monkeypatch.setenv(f"PSUEDOPTIMAL_{name}", value)
    monkeypatch.setenv("HF_TOKEN", "secret")
    words = [str(tmp_path / "sweep"), "--config", str(config), "--point", POINT, "--seeds", "1,2"]
    trials = planned_of(*words)
    assert [(t.config.seed, t.config.budget, t.config.learning_rate) for t in trials] == [
        (1, 2.0, 0.5), (2, 2.0, 0.5),
    ]  # fmt: skip
    children: list[tuple[list[str], dict[str, str]]] = []

    class Child:
        """A process that was asked for, and ended well."""

        def __init__(self, words: list[str], env: dict[str, str], stdout: Any) -> None:
            children.append((words, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Child)
    assert [cli_sweep._train(trial, ["--decoder-url", "http://127.0.0.1:9"]) for trial in trials] == [0, 0]
    Run.create(trials[0].folder.parent, trials[0].folder.name, trials[0].config)
    assert cli_sweep._train(trials[0], []) == 0  # a run that goes on hears of services that have moved
    assert children.pop()[1]["PSUEDOPTIMAL_DECODER_TOKEN_FILE"] == "/token"
    for trial, (given, environment) in zip(trials, children, strict=True):
        assert environment["HF_TOKEN"] == "secret" and environment["PSUEDOPTIMAL_DATA"] == "/data"
        with monkeypatch.context() as context:
            context.setattr(os, "environ", environment)
            file = Path(given[given.index("--config") + 1])
            assert new_config({}, [file]) == trial.config
        assert trial.config.decoder_token_file == Path("/token")
    monkeypatch.delenv("PSUEDOPTIMAL_LEARNING_RATE")
    with pytest.raises(ConfigError, match=r"a run with other settings \(learning_rate\)"):
        planned_of(*words)
