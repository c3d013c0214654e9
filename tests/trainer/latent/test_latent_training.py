"""Whole latent runs on small models of different widths: the verb itself, with the teacher in process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from trainer.supervise import free_port

pytestmark = pytest.mark.slow
WIDTH, K = 48, 4
DATA = Path(os.environ.get("PSUEDOPTIMAL_DATA", "../shared/data")) / "conversations" / "alfworld_120.json"


@pytest.fixture(scope="module")
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


def run(words: list[str], processes: int = 1, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "trainer.cli"]
    if processes > 1:
        launcher = [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes),
            "--master_port", str(free_port()), "-m", "trainer.cli",
        ]  # fmt: skip
    return subprocess.run(
        [*launcher, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s
    )


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_quick_start_runs_on_models_of_different_widths(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    out, data = tmp_path / "latent_out", talks(tmp_path, 12)
    states = hidden(tmp_path, [f"t{n}" for n in range(12)])
    before = {file.name: file.read_bytes() for file in teacher_folder.iterdir() if file.is_file()}
    done = run(
        argv(out, teacher_folder, student_folder, data, states, "--max_steps", "3", "--eval_steps", "2",
                    "--save_steps", "2", "--gradient_checkpointing", "--optim", "adafactor"))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert set(summary["heldout"]["ce"]["plain"]) == {"student", "none", "noise"}
    lines = metrics(out)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all({"ce", "kl", "align", "loss", "moved/head", "moved/base"} <= set(line) for line in lines)
    assert lines[-1]["moved/head"] > 0
    assert lines[-1]["moved/base"] > 0
    held = json.loads((out / "split.json").read_text())
    assert len(held["train"]) == 11
    assert len(held["evaluation"]) == 1
    assert before == {file.name: file.read_bytes() for file in teacher_folder.iterdir() if file.is_file()}
    # The student, its head and marks, in float32, and nothing else.
    from safetensors import safe_open

    for file in out.glob("checkpoints/*/model.safetensors"):
        with safe_open(file, framework="pt") as weights:
            shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        assert {name.partition(".")[0] for name in shapes} == {
            "base", "start", "h2e", "projector", "head", "bop", "eop",
        }  # fmt: skip
        values = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        assert file.stat().st_size < values + 100 * len(shapes) + 4096


def test_the_toy_example_says_that_one_sample_cannot_be_split_and_runs_without_a_split(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    data = talks(tmp_path, 1)
    states = hidden(tmp_path, ["t0"])
    words = argv(tmp_path / "out", teacher_folder, student_folder, data, states, "--num_train_epochs", "1",
                 "--per_device_train_batch_size", "1")  # fmt: skip
    refused = run(words)
    assert refused.returncode == 2
    assert "1 conversation cannot be split" in refused.stderr
    done = run([*words, "--eval_ratio", "0"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(metrics(tmp_path / "out")) == 1


@pytest.mark.skipif(not DATA.is_file(), reason=f"{DATA} is not here; set PSUEDOPTIMAL_DATA")
def test_alfworld_trains_two_steps_with_collected_states(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    # The small teacher writes empty plans: the rows bring theirs.
    rows = [{**row, "plan": "look around, then go"} for row in json.loads(DATA.read_text())]
    data, states = tmp_path / "alfworld.json", tmp_path / "collected"
    data.write_text(json.dumps(rows), encoding="utf-8")
    collected = run([
        "collect", "hidden", "--data_path", str(data), "--output", str(states), "--plans", "data",
        "--teacher_model_name_or_path", str(teacher_folder),
    ])  # fmt: skip
    assert collected.returncode == 0, collected.stderr[-3000:]
    out = tmp_path / "out"
    done = run(argv(out, teacher_folder, student_folder, data, states, "--max_steps", "2",
                    "--model_max_length", "2048", "--eval_ratio", "0.02"))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in metrics(out)] == [1, 2]


def test_two_processes_have_the_loss_curve_of_one(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    data, states = talks(tmp_path, 16), hidden(tmp_path, [f"t{n}" for n in range(16)])
    # KL weights hang together over a process's own batch: they are left out of what must be equal.
    same = ["--max_steps", "4", "--eval_ratio", "0", "--kl_weight", "0", "--learning_rate", "0.001"]
    one = argv(tmp_path / "one", teacher_folder, student_folder, data, states, *same,
               "--per_device_train_batch_size", "4")  # fmt: skip
    two = argv(tmp_path / "two", teacher_folder, student_folder, data, states, *same,
               "--per_device_train_batch_size", "2")  # fmt: skip
    for words, processes in ((one, 1), (two, 2)):
        done = run(words, processes)
        assert done.returncode == 0, done.stderr[-3000:]
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a["step"] == b["step"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=0.02)


def test_a_killed_run_goes_on_exactly(tmp_path: Path, teacher_folder: Path, student_folder: Path) -> None:
    data, states = talks(tmp_path, 6), hidden(tmp_path, [f"t{n}" for n in range(6)])
    same = ["--max_steps", "12", "--eval_ratio", "0", "--save_steps", "2", "--head_dropout", "0.1"]
    whole = argv(tmp_path / "whole", teacher_folder, student_folder, data, states, *same)
    assert run(whole).returncode == 0
    broken = argv(tmp_path / "broken", teacher_folder, student_folder, data, states, *same)
    process = subprocess.Popen([sys.executable, "-m", "trainer.cli", *broken], env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 300
    # In the second epoch: six conversations, two a step.
    while not (tmp_path / "broken/checkpoints/checkpoint-6/complete.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "broken/summary.json").exists()
    done = run(["train", "latent", "--resume", str(tmp_path / "broken"), "--json"])
    assert done.returncode == 0, done.stderr[-3000:]
    keys = ("step", "loss", "ce", "kl", "align", "grad_norm", "learning_rate", "moved/start")
    one, other = metrics(tmp_path / "whole"), metrics(tmp_path / "broken")
    for a, b in zip(one, other, strict=True):
        for key in keys[:-1]:
            assert a[key] == b[key], (a["step"], key)
