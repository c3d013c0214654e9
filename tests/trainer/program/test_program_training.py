"""Whole program runs, a tiny coder and a real sandbox: records, requests, resume after a kill, outages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.channels.program.callbacks import HeldOutSequences
from trainer.channels.program.heldout import Evaluation
from trainer.channels.program.policy import write_programs
from trainer.cli import main
from trainer.config import ConfigError, resolve
from trainer.config_program import ProgramConfig
from trainer.measure.programs_coders import load_coder
from trainer.runs import COMPLETE, Run
from trainer.supervise import Service

pytestmark = pytest.mark.slow

# Twelve sequences, four a step: three steps an epoch, so that nine steps are three epochs.
SMALL = [
    "--train-sequences", "12", "--validation-sequences", "6", "--heldout-sequences", "8",
    "--max-length", "24",
    "--batch-size", "4", "--samples", "4", "--gradient-accumulation-steps", "2", "--num-epochs", "3",
    "--learning-rate", "0.002", "--max-tokens", "48", "--device", "cpu", "--threads", "1", "--no-lora",
    "--no-warm-start", "--no-gradient-checkpointing", "--kl-coef", "0.0", "--logging-steps", "1",
]  # fmt: skip
CLOCKS = ("time/",)


def argv(folder: Path, coder: Path, sandbox: Service, *more: str) -> list[str]:
    easy = folder.parent / "easy.jsonl"
    rows = [{"sequence": [value] * n} for n in range(3, 7) for value in (10, 20, 30)]
    easy.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = [
        "--data_path",
        str(easy),
        "--model_name",
        str(coder),
        "--output_dir",
        str(folder),
        "--sandbox-url",
        sandbox.url,
    ]
    return ["train", "program", *SMALL, *place, *more]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return list(Run(folder).rows("metrics.jsonl"))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if not k.startswith(CLOCKS) and k != "sandbox/requests"} for row in rows
    ]


@pytest.fixture(scope="module")
def whole(tiny_coder: Path, sandbox: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from its first step to its summary."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(argv(folder, tiny_coder, sandbox)) == 0
    return folder


def test_a_run_leaves_everything_it_promises(whole: Path) -> None:
    rows = metrics(whole)
    assert [row["step"] for row in rows] == list(range(1, 10))
    for name in (
        "compression_rate",
        "accuracy",
        "reward/mean",
        "policy_loss",
        "executable",
        "epoch",
        "entropy",
    ):
        assert all(row[name] is not None for row in rows), name
    assert all(row["sandbox/requests"] <= 1 for row in rows)
    summary = Run(whole).read_json("summary.json")
    assert summary["channel"] == "program" and summary["heldout"]["n"] == 8
    assert {"accuracy", "bits_per_program", "compression_rate"} <= set(summary["heldout"])
    assert summary["ground_truth"]["bits_per_sequence"] > 0
    evaluations = list(Run(whole).rows("evaluations.jsonl"))
    assert [(row["step"], row["split"]) for row in evaluations] == [
        (0, "test"), (0, "validation"), (3, "validation"), (6, "validation"), (9, "validation")
    ]  # fmt: skip
    assert (whole / "checkpoints" / "best" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("joined", "alone", "better"),
    [(90.0, 210.0, False), (110.0, 190.0, True), (90.0, None, True), (110.0, None, False)],
)
def test_the_best_weights_are_those_whose_programs_save_most_by_themselves(
    joined: float, alone: float | None, better: bool
) -> None:
    looks = HeldOutSequences.__new__(HeldOutSequences)
    looks.best = Evaluation(0, "validation", 9, 0.5, 1.0, None, 100.0, 0.5, None, 200.0, 0.9)
    assert looks.is_better(looks.best._replace(bits_per_sequence=joined, bits_alone=alone)) is better


def test_every_lines_credit_is_in_the_episodes(whole: Path) -> None:
    episodes = list(Run(whole).rows("episodes.jsonl"))
    assert len(episodes) == 9 * 16
    assert all(len(row["credit"]) == max(1, row["steps"]) for row in episodes)
    assert all(value <= 0 for row in episodes if row["outcome"] != "solved" for value in row["credit"])
    assert any(value > 0 for row in episodes for value in row["credit"])


def test_a_run_that_is_killed_goes_on_to_the_same_end(
    whole: Path, tiny_coder: Path, sandbox: Service, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *argv(folder, tiny_coder, sandbox)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not list((folder / "checkpoints").glob(f"checkpoint-*/{COMPLETE}")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "summary.json").exists()
    assert main(["train", "program", "--resume", str(folder), "--sandbox-url", sandbox.url]) == 0
    assert timeless(metrics(folder)) == timeless(metrics(whole))
    ours, theirs = (Run(f).read_json("summary.json") for f in (folder, whole))
    assert ours["heldout"] == theirs["heldout"]


def test_a_resumed_run_keeps_its_settings(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "program", "--resume", str(whole), "--learning-rate", "1"]) == 2
    assert "learning_rate" in capsys.readouterr().err


def test_an_outage_ends_the_run_in_front_of_its_step_and_no_step_is_lost(
    whole: Path, tiny_coder: Path, tmp_path: Path
) -> None:
    own = Service("sandbox", tmp_path / "log", {"SANDBOX_JAIL": "process"})
    own.start()
    folder = tmp_path / "outage"
    try:
        own.wait_ready()
        more = ["--deadline-s", "4", "--checkpoint-freq", "100"]
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.cli", *argv(folder, tiny_coder, own, *more)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        end = time.monotonic() + 240
        while not (folder / "metrics.jsonl").is_file():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.02)
        own.kill()
        _, said = process.communicate(timeout=240)
        assert process.returncode == 1 and "gave no answer, 2 times" in said and "--resume" in said
        last = metrics(folder)[-1]["step"]
        assert last < 9 and (folder / "checkpoints" / f"checkpoint-{last}" / COMPLETE).is_file()
        own.start()
        own.wait_ready()
        assert main(["train", "program", "--resume", str(folder), "--sandbox-url", own.url]) == 0
    finally:
        own.stop()
    assert timeless(metrics(folder)) == timeless(metrics(whole))


def test_two_processes_do_not_write_to_one_run(
    whole: Path, sandbox: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(whole).held():
        assert main(["train", "program", "--resume", str(whole), "--sandbox-url", sandbox.url]) == 2
    assert "is writing to this run" in capsys.readouterr().err


def test_an_adapter_is_measured_on_the_warm_started_model_it_was_trained_on(
    tiny_coder: Path, sandbox: Service, tmp_path: Path
) -> None:
    """The warm start makes the coder forget all it knew, and REINFORCE changes next to nothing."""
    folder, held = tmp_path / "warm", tmp_path / "held.jsonl"
    rows = [{"sequence": [value] * n} for n in (4, 5) for value in (10, 20, 30)]
    held.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [
        "--warm-start", "--warm-start-steps", "3", "--warm-start-batch", "2", "--num-epochs", "1",
        "--warm-start-learning-rate", "0.5", "--learning-rate", "1e-9", "--eval_data_path", str(held),
    ]  # fmt: skip
    flags = argv(folder, tiny_coder, sandbox, *more)
    flags.remove("--no-lora")
    assert main(flags) == 0
    assert (folder / "warm-start" / "model.safetensors").is_file() and len(metrics(folder)) == 1
    summary = Run(folder).read_json("summary.json")
    before, after = summary["untrained"], summary["heldout"]
    assert {name: after[name] for name in before} == before
    assert before["accuracy"] == 0 < solved(str(tiny_coder), rows)
    # Wherever the run folder lies by then; and an adapter that lies elsewhere says where it belongs.
    moved = folder.rename(tmp_path / "moved")
    assert solved(str(moved), rows) == 0
    with pytest.raises(ConfigError, match="is an adapter; give the run it is of"):
        load_coder(str(moved / "checkpoints" / "best"))
    (moved / "warm-start").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="put that folder back"):
        load_coder(str(moved))


def solved(coder: str, rows: list[dict[str, Any]]) -> int:
    """Return how many of such sequences a coder writes the shortest program of."""
    texts = write_programs(load_coder(coder, device="cpu"), [row["sequence"] for row in rows], max_tokens=48)
    wanted = [f"repeat_num({len(row['sequence'])}, {row['sequence'][0]})" for row in rows]
    return sum(want in text for want, (text,) in zip(wanted, texts, strict=True))


def test_screening_leaves_what_is_solved_now_and_then(
    tiny_coder: Path, sandbox: Service, tmp_path: Path
) -> None:
    """Nobody ever writes the two last sequences' programs; of the others a coder is right now and then."""
    rows = [{"sequence": [value] * n} for n in range(3, 7) for value in (10, 20, 30)]
    rows += [{"sequence": [1, 200, 3, 77, 5]}, {"sequence": [9, 8, 250, 6, 41]}]
    file, folder = tmp_path / "mixed.jsonl", tmp_path / "screened"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [
        "--data_path", str(file), "--train-sequences", "14", "--screen-samples", "24", "--batch-size", "1",
    ]  # fmt: skip
    twice = [
        "--train-steps",
        "5",
        "--screen-every",
        "2",
        "--checkpoint-freq",
        "0.07",
        "--save-total-limit",
        "9",
    ]
    assert main(argv(folder, tiny_coder, sandbox, *more, *twice)) == 0
    looks = list(Run(folder).rows("screenings.jsonl"))
    assert [(row["step"], row["screened"]) for row in looks] == [(0, 14), (2, 14), (4, 14)]
    steps = metrics(folder)
    assert len(steps) == 5 and [row["time/screen_s"] > 0 for row in steps] == [True, False] * 2 + [True]
    for episode in Run(folder).rows("episodes.jsonl"):
        places = looks[(episode["step"] - 1) // 2]["places"]
        assert episode["place"] in places and set(places) <= set(range(12))
    assert Run(folder).read_json("summary.json")["seconds"]["screen"] > 0
    # What lies after a checkpoint is looked at again, and is found as it was.
    for name in ("checkpoint-4", "checkpoint-5"):
        shutil.rmtree(folder / "checkpoints" / name)
    (folder / "summary.json").unlink()
    assert main(["train", "program", "--resume", str(folder), "--sandbox-url", sandbox.url]) == 0
    again = list(Run(folder).rows("screenings.jsonl"))
    assert [row["places"] for row in again] == [row["places"] for row in looks]
    assert timeless(metrics(folder)) == timeless(steps)


def test_a_run_with_nothing_left_to_learn_from_says_so(
    tiny_coder: Path, sandbox: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hard.jsonl"
    file.write_text('{"sequence": [1, 200, 3, 77, 5]}\n{"sequence": [9, 8, 250, 6, 41]}\n')
    more = ["--data_path", str(file), "--train-sequences", "2", "--screen-samples", "4"]
    assert main(argv(tmp_path / "none", tiny_coder, sandbox, *more)) == 2
    said = capsys.readouterr().err
    assert "screening at step 0: 4 programs of each of 2 sequences" in said
    assert "screen_samples=4 leaves 0 of 2 training sequences" in said and "--resume" not in said


def test_a_run_whose_time_is_over_says_what_it_went_on_and_takes_no_further_step(
    tiny_coder: Path, sandbox: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "short"
    assert main(argv(folder, tiny_coder, sandbox, "--max-seconds", "0.01")) == 0
    assert "max_seconds=0.01 are over after step 1 of" in capsys.readouterr().err
    names = ("metrics.jsonl", "evaluations.jsonl", "summary.json")
    before = [(folder / name).read_text() for name in names[:2]]
    (folder / names[2]).unlink()
    assert main(["train", "program", "--resume", str(folder), "--sandbox-url", sandbox.url]) == 0
    said = capsys.readouterr().err
    assert "are over after step 1 of 9" in said and "--max-seconds gives it more" in said
    assert [(folder / name).read_text() for name in names[:2]] == before and (folder / names[2]).is_file()


def test_sequences_of_files_are_trained_on_and_a_bad_row_is_named(
    tiny_coder: Path, sandbox: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    rows = [{"sequence": [i, i, i, i + 1]} for i in range(12)]
    good.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad.write_text('{"sequence": [1, 2]}\n{"sequence": [1, 999]}\n')
    held = tmp_path / "held.bin"
    held.write_bytes(bytes(range(60)))
    paths = ["--eval_data_path", str(held), "--chunk", "6", "--num_epochs", "1"]
    assert main(argv(tmp_path / "a", tiny_coder, sandbox, "--data_path", str(good), *paths)) == 0
    summary = Run(tmp_path / "a").read_json("summary.json")
    assert summary["ground_truth"]["bits_per_sequence"] is None and summary["heldout"]["n"] == 5
    capsys.readouterr()
    assert main(argv(tmp_path / "b", tiny_coder, sandbox, "--data_path", str(bad), *paths)) == 2
    assert f"{bad}:2: sequence[1]=999" in capsys.readouterr().err


def test_a_hundred_sequences_are_evaluated_by_one_request(
    tiny_coder: Path, sandbox: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--n", "100", "--max-length", "24", "--max-tokens", "48", "--json", "--sandbox-url", sandbox.url]
    assert main(["evaluate", "program", str(tiny_coder), "--samples", "1,4", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sandbox_requests"] <= 2
    one, four = (row["figures"] for row in found["rows"])
    assert four["accuracy"] >= one["accuracy"] and four["bits_per_sequence"] <= one["bits_per_sequence"]


def test_a_run_keeps_its_evaluation_however_its_folder_is_written(
    whole: Path, sandbox: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--n", "4", "--max-length", "24", "--max-tokens", "48", "--sandbox-url", sandbox.url]
    assert main(["evaluate", "program", f"{whole.parent}/./{whole.name}/", *flags]) == 0
    kept = (whole / "evaluation.json").read_text()
    assert [row["figures"]["n"] for row in json.loads(kept)["rows"]] == [4]
    answers = whole.parent / "answers.jsonl"
    answers.write_text('{"sequence": [1, 2], "generation": "output = [1, 2]"}\n')
    assert main(["evaluate", "program", str(whole), "--answers", str(answers)]) == 2
    assert "leave out CODER" in capsys.readouterr().err
    assert (whole / "evaluation.json").read_text() == kept


def test_settings_that_contradict_each_other_are_refused() -> None:
    for flags, said in (
        ({"use_8bit_quantization": True}, "8-bit weights cannot be trained"),
        ({"partial_credit": 100.0}, "worth more than a right"),
        ({"screen_samples": 1}, "screen_samples=1"),
        ({"gradient_accumulation_steps": 3}, "does not divide the 64 programs"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve(ProgramConfig, [], flags)
