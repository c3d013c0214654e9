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

from trainer.cli import main
from trainer.runs import Run

pytestmark = pytest.mark.slow

SMALL = {
    "dataset": "starter", "generator_model": "echo", "lora": None, "train_tasks": 4, "validation_tasks": 2,
    "heldout_tasks": 2, "batch_size": 4, "gradient_accumulation_steps": 1, "num_generations": 2,
    "max_completion_length": 4, "max_steps": 16, "device": "cpu", "save_steps": 1, "threads": 1,
    "logging_steps": 1,
}  # fmt: skip
POINT = "reward=budget budget=2 budget_start=3"


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
