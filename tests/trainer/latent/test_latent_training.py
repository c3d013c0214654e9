"""Whole latent runs on small models of different widths: the verb itself, with the teacher in process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.trainer.latent.conftest import (
    ENVIRONMENT,
    WIDTH,
    K,
    argv,
    evaluations,
    hidden,
    metrics,
    run,
    run_as_two,
    state_of,
    talks,
)

from shared.wire_latents import Turn
from trainer.channels.latent.message_file import read_letter
from trainer.channels.latent.teacher import LocalTeacher, RemoteTeacher
from trainer.channels.latent.vectors import to_wire
from trainer.cli import main
from trainer.config import resolve
from trainer.config_latent import LatentConfig
from trainer.config_latent import Service as Decoders
from trainer.supervise import Service

pytestmark = pytest.mark.slow
DATA = Path(os.environ.get("PSUEDOPTIMAL_DATA", "../shared/data")) / "conversations" / "alfworld_120.json"


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
    # Five are held out, two at a time: of the last round the first process has one, the second has none.
    same = ["--max_steps", "4", "--eval_ratio", "0.3125", "--eval_steps", "2", "--save_steps", "2",
            "--kl_weight", "0", "--learning_rate", "0.001"]  # fmt: skip
    one = argv(tmp_path / "one", teacher_folder, student_folder, data, states, *same,
               "--per_device_train_batch_size", "4")  # fmt: skip
    two = argv(tmp_path / "two", teacher_folder, student_folder, data, states, *same,
               "--per_device_train_batch_size", "2")  # fmt: skip
    for done in (run(one), *run_as_two(two)):
        assert done.returncode == 0, done.stderr[-3000:]
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert a["step"] == b["step"]
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=0.02)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    for a, b in zip(evaluations(tmp_path / "one"), evaluations(tmp_path / "two"), strict=True):
        for name in ("step", "loss", "ce", "align", "window_tokens"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    # The best is chosen by the very figure that is told.
    for out in (tmp_path / "one", tmp_path / "two"):
        assert state_of(out, 4)["best_metric"] == min(row["loss"] for row in evaluations(out))


def test_a_killed_run_goes_on_exactly(tmp_path: Path, teacher_folder: Path, student_folder: Path) -> None:
    data, states = talks(tmp_path, 6), hidden(tmp_path, [f"t{n}" for n in range(6)])
    same = ["--max_steps", "12", "--eval_ratio", "0", "--save_steps", "2", "--head_dropout", "0.1",
            "--warm_start_steps", "2", "--plan_mixing", "0.5"]  # fmt: skip
    broken = argv(tmp_path / "broken", teacher_folder, student_folder, data, states, *same)
    process = subprocess.Popen([sys.executable, "-m", "trainer.cli", *broken], env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    whole = argv(tmp_path / "whole", teacher_folder, student_folder, data, states, *same)
    deadline = time.monotonic() + 300
    # In the second epoch: six conversations, two a step.
    while not (tmp_path / "broken/checkpoints/checkpoint-6/complete.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "broken/summary.json").exists()
    assert run(whole).returncode == 0
    done = run(["train", "latent", "--resume", str(tmp_path / "broken"), "--json"])
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = metrics(tmp_path / "whole"), metrics(tmp_path / "broken")
    for a, b in zip(one, other, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith("time/")} == {
            k: v for k, v in b.items() if not k.startswith("time/")
        }, a["step"]
    # Told from the weights after the warm start, before and after the kill; the first step's rate is 0.
    assert other[0]["moved/base"] == 0 < other[1]["moved/base"] < other[-1]["moved/base"]


def test_training_leaves_the_teacher_as_it_was(
    tmp_path: Path, teacher_folder: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[LocalTeacher] = []

    def opened(config: LatentConfig) -> LocalTeacher:
        met.append(LocalTeacher(config))
        before.update({name: value.clone() for name, value in met[0].engine._model.state_dict().items()})
        return met[0]

    before: dict[str, Any] = {}
    monkeypatch.setattr("trainer.channels.latent.trainer.open_teacher", opened)
    data, states = talks(tmp_path, 6), hidden(tmp_path, [f"t{n}" for n in range(6)])
    words = argv(tmp_path / "out", teacher_folder, student_folder, data, states, "--max_steps", "3")
    assert run(words).returncode == 0
    model = met[0].engine._model
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(bool((after[name] == value).all()) for name, value in before.items())
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())


def test_a_decoder_killed_in_mid_run_costs_no_step_and_its_answers_stay_the_same(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    data, states = talks(tmp_path, 6), hidden(tmp_path, [f"t{n}" for n in range(6)])
    decoder = Service(
        "decoder", tmp_path / "log", {"DECODER_ENGINE": "hf", "DECODER_MODEL": str(teacher_folder)}
    )
    decoder.start()
    try:
        decoder.wait_ready()

        def trained(out: Path) -> list[dict[str, Any]]:
            words = argv(out, teacher_folder, student_folder, data, states, "--max_steps", "6",
                         "--eval_ratio", "0", "--decoder_url", decoder.url)  # fmt: skip
            words.remove("--teacher_in_process")
            done = run(words)
            assert done.returncode == 0, done.stderr[-3000:]
            return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics(out)]

        teacher = RemoteTeacher(Decoders(decoder_url=[decoder.url]))
        how: dict[str, Any] = {"layout": "plain", "max_length": 64}
        asked = [[Turn(role="user", content="Sort 2, 1."), Turn(role="assistant", content="1, 2.")]]
        latents = to_wire(torch.ones(1, K, WIDTH))
        before = teacher.loss(latents, asked, **how)
        whole = trained(tmp_path / "whole")
        assert teacher.loss(latents, asked, **how) == before

        def outage() -> None:
            lines = tmp_path / "broken/metrics.jsonl"
            while not (lines.is_file() and lines.read_text().count("\n") >= 2):
                time.sleep(0.005)
            decoder.kill()
            killed.set()
            decoder.start()
            # The service dies with the thread that started it.
            over.wait()

        killed, over = threading.Event(), threading.Event()
        thread = threading.Thread(target=outage, daemon=True)
        thread.start()
        try:
            broken = trained(tmp_path / "broken")
            assert killed.is_set()
            assert broken == whole
            assert teacher.loss(latents, asked, **how) == before
        finally:
            over.set()
    finally:
        decoder.stop()


def test_a_conversation_cut_to_nothing_is_named_by_file_and_id(
    tmp_path: Path, teacher_folder: Path, student_folder: Path
) -> None:
    rows = json.loads(talks(tmp_path, 3).read_text())
    rows[1]["conversations"][0]["value"] = "Sort these numbers: 3, 1, 2. " * 40
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    states = hidden(tmp_path, [f"t{n}" for n in range(3)])
    done = run(argv(tmp_path / "out", teacher_folder, student_folder, data, states, "--max_steps", "2",
                    "--eval_ratio", "0", "--model_max_length", "80"))  # fmt: skip
    assert done.returncode == 2
    assert f"data_path={str(data)!r}, id 't1': none of its assistant's tokens is left" in done.stderr
    assert "--model_max_length" in done.stderr


def test_the_demo_trains_measures_and_its_student_sends(
    tmp_path: Path, student_folder: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("SANDBOX_JAIL", "process")
    settings, runs = tmp_path / "small.yaml", tmp_path / "runs"
    small = {
        "teacher_model_name_or_path": str(teacher_folder), "student_model_name_or_path": str(student_folder),
        "data_path": "starter", "layout": "blind", "student_layout": "chat", "kl_weight": 0,
        "align_weight": 0, "head_heads": 4, "device": "cpu", "threads": 1, "max_program_tokens": 8,
        "warm_start_batch": 4, "marks_text": "def",
    }  # fmt: skip
    settings.write_text(json.dumps(small), encoding="utf-8")
    flags = ["--max-steps", "1", "--warm-start-steps", "2", "--train-tasks", "8", "--validation-tasks", "2",
             "--heldout-tasks", "3"]  # fmt: skip
    words = ["demo", "latent", "--config", str(settings), "--runs", str(runs), "--K", "2", *flags, "--json"]
    assert main(words) == 0, capfd.readouterr().err[-3000:]
    (table,) = json.loads(capfd.readouterr().out)
    (folder,) = runs.glob("demo-latent-*-k2-seed1")
    assert table["run"] == folder.name
    assert table["latent"] == {"vectors": 2, "width": WIDTH, "bits": 32}
    names = [row["name"] for row in table["rows"]]
    assert names == [
        "student", "none", "mismatched", "white noise", "covariance noise", "covariance noise, no mean",
        "random rotation", "data latents", "text plan", "student fp16", "student int8", "student int4",
        "student fp32, first 1", "warm start alone",
    ]  # fmt: skip
    assert all(len(sender["passed"]) == 3 for sender in table["senders"].values())
    assert {layout for row in table["rows"] for layout in row["ce"]} == {"blind", "chat"}
    assert "http://127.0.0.1" not in (folder / "config.yaml").read_text(encoding="utf-8")
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "warm start alone" in report
    assert len(json.loads((folder / "split.json").read_text())["heldout"]) == 3
    # The message file goes to the same teacher, which answers it alone.
    file = tmp_path / "message.safetensors"
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("teacher_in_process: false", "teacher_in_process: true"))
    send = ["latent", "send", str(folder), "--task", "Add one to n.", "--signature", "def f(n):", "-o",
            str(file), "--precision", "int8", "--json"]  # fmt: skip
    assert main(send) == 0
    sent = json.loads(capfd.readouterr().out)
    assert (sent["vectors"], sent["width"], sent["bits"]) == (2, WIDTH, 2 * (8 * WIDTH + 16))
    assert sent["bytes"] == file.stat().st_size
    assert main(["latent", "decode", str(folder), "-o", str(file)]) == 0
    alone = capfd.readouterr().out
    letter = read_letter(file)
    (told,) = LocalTeacher(resolve(LatentConfig, [config], {})).decode(
        to_wire(letter.latents), layout="blind", bop=to_wire(letter.bop), eop=to_wire(letter.eop),
        max_new_tokens=8,
    )  # fmt: skip
    assert alone == told.text + "\n"
