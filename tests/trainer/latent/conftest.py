"""Small models and data of a latent run, and the verb in this process or in two."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from shared.ports import free_port
from trainer.cli import main

WIDTH, K = 48, 4


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Path:
    folder: Path = build(tmp_path_factory.mktemp("teacher"), seed=1, width=WIDTH)
    return folder


def hidden(folder: Path, ids: list[str]) -> Path:
    chance = np.random.default_rng(0)
    rows = [chance.normal(size=(5, WIDTH)).tolist() for _ in ids]
    made = Dataset.from_dict({"task_id": ids, "hidden_state": rows, "plan": ["first, then"] * len(ids)})
    DatasetDict({"train": made}).save_to_disk(str(folder / "hidden"))
    return folder / "hidden"


def talks(folder: Path, count: int) -> Path:
    rows = [
        {"id": f"t{n}", "conversations": [{"from": "human", "value": f"Sort these numbers: {n}, 1, 2."},
                                          {"from": "gpt", "value": "They can be sorted."}]}
        for n in range(count)
    ]  # fmt: skip
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "data.json"


def argv(out: Path, teacher: Path, student: Path, data: Path, states: Path, *more: str) -> list[str]:
    """The seed's quick start, with its own flags."""
    return [
        "train", "latent", "--teacher_model_name_or_path", str(teacher), "--student_model_name_or_path",
        str(student), "--data_path", str(data), "--hf_hidden_repo", str(states), "--output_dir", str(out),
        "--K", str(K), "--teacher_in_process", "--device", "cpu", "--threads", "1", "--head_heads", "4",
        "--head_dropout", "0", "--logging_steps", "1", "--json", *more,
    ]  # fmt: skip


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run(words: list[str]) -> Ended:
    """Run a command in this process, which has everything imported already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return Ended(code, out.getvalue(), err.getvalue())


def run_as_two(words: list[str]) -> list[Ended]:
    """Run a command in two processes that find each other as a launcher's do."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", *words],
            env={**ENVIRONMENT, **place, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [rank.communicate(timeout=400) for rank in ranks]
    return [Ended(rank.returncode, *text) for rank, text in zip(ranks, said, strict=True)]


def metrics(out: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def evaluations(out: Path) -> list[dict[str, Any]]:
    """Every evaluation's figures, without those that differ from run to run."""
    timed = ("runtime", "per_second", "preparation_time")
    return [{k: v for k, v in row.items() if not k.endswith(timed)} for row in metrics(out, "evaluations")]


def state_of(out: Path, step: int) -> dict[str, Any]:
    """What transformers keeps in a checkpoint."""
    file = out / f"checkpoints/checkpoint-{step}/trainer_state.json"
    found: dict[str, Any] = json.loads(file.read_text())
    return found
