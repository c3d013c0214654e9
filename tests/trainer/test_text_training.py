"""Whole text runs, a tiny student and real services: records, resume, outages, kills."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.runs import COMPLETE, Run

pytestmark = pytest.mark.slow

# Twelve tasks, four groups a step: three steps an epoch, so that eight steps cross two epochs.
SMALL = [
    "--dataset", "starter", "--no-lora", "--generator-model", "echo", "--train-tasks", "12",
    "--max-steps", "8",
    "--batch-size", "8", "--gradient-accumulation-steps", "2", "--num-generations", "4", "--device", "cpu",
    "--max-completion-length", "8", "--no-gradient-checkpointing", "--threads", "1",
    "--learning-rate", "0.01",
    "--reward", "lagrangian", "--scale-rewards", "none", "--loss-type", "dr_grpo", "--logging-steps", "1",
    "--save-steps", "2", "--eval-steps", "4", "--validation-tasks", "6", "--heldout-tasks", "6",
    "--example-steps", "4",
]  # fmt: skip
# The starter configuration itself, with fewer steps and tasks: its own models, its `relative` reward.
STARTER = [
    "train", "text", "--config", "starter-text.yaml", "--max-steps", "8", "--save-steps", "2",
    "--eval-steps", "4", "--batch-size", "16", "--train-tasks", "40", "--validation-tasks", "8",
    "--heldout-tasks", "8", "--logging-steps", "1",
]  # fmt: skip
CLOCKS = ("time/", "seconds")
OUTAGE_S = 20.0


def argv(folder: Path, student: Path, rooms: Any, *more: str) -> list[str]:
    place = ["--runs", str(folder.parent), "--name", folder.name, "--student-model", str(student)]
    return ["train", "text", *SMALL, *place, *rooms.flags, *more]


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *args], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Everything but the clocks: what two equal runs have in common."""
    rows = Run(folder).rows("metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in rows]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not any(row["step"] >= step for row in Run(folder).rows("metrics.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no step came"
        time.sleep(0.02)


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return list(Run(folder).rows("evaluations.jsonl"))


def wait_for_episodes(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return when a step has its rewards; what is evaluated after it is not yet."""
    while not any(row["step"] >= step for row in Run(folder).rows("episodes.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student_folder: Path, rooms: Any) -> Iterator[Path]:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(argv(folder, student_folder, rooms)) == 0
    yield folder


def test_a_run_leaves_all_its_records(whole: Path) -> None:
    run = Run(whole)
    rows = list(run.rows("metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, 9))
    for name in (
        "reward/mean", "pass_rate", "message/tokens", "ratio", "entropy", "grad_norm",
        "pass_rate_by_family", "time/decode_s", "time/sandbox_s", "time/train_s",
    ):  # fmt: skip
        assert all(name in row for row in rows), name
    episodes = list(run.rows("episodes.jsonl"))
    assert len(episodes) == 8 * 16
    assert {"raised", "truncated"} <= {episode["outcome"] for episode in episodes}
    assert set(episodes[0]) >= {"step", "task_id", "message", "tokens", "program", "outcome", "reward"}
    assert {row["step"] for row in run.rows("heldout.jsonl")} == {0, 4, 8}
    services = run.read_json("services.json")
    assert (services["decoder"]["engine"], services["sandbox"]["jail"][:7]) == ("echo", "process")


def test_a_run_ends_with_its_summary_and_its_best_weights(whole: Path) -> None:
    summary = Run(whole).read_json("summary.json")
    assert (summary["channel"], summary["seed"], summary["heldout"]["n"]) == ("text", 42, 6)
    assert set(summary["heldout"]) == {
        "n", "pass_rate", "tokens_per_message", "compression_vs_untrained", "compression_vs_reference",
    }  # fmt: skip
    assert set(summary["seconds"]) == {"train", "decode", "sandbox", "evaluate"}
    best = json.loads((whole / "checkpoints/best/best.json").read_text())
    assert best["step"] in (4, 8)
    assert (whole / "checkpoints/best/model.safetensors").is_file()


def test_later_epochs_take_the_tasks_in_another_order(whole: Path) -> None:
    met = [row["task_id"] for row in Run(whole).rows("episodes.jsonl")][::4]
    first, second = met[:12], met[12:24]
    assert set(first) == set(second) and first != second


def test_the_same_run_twice_gives_the_same_figures(
    whole: Path, student_folder: Path, rooms: Any, tmp_path: Path
) -> None:
    assert main(argv(tmp_path / "again", student_folder, rooms)) == 0
    assert metrics(tmp_path / "again") == metrics(whole)


def test_a_killed_run_resumes_exactly_and_skips_a_half_written_checkpoint(
    whole: Path, student_folder: Path, rooms: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = start(*argv(folder, student_folder, rooms))
    wait_for_step(folder, 5, process)
    process.kill()
    process.communicate()
    complete = Run(folder).complete_checkpoints()
    if len(complete) > 1:  # as if the kill had come a moment before the last checkpoint was whole
        (complete[-1] / COMPLETE).unlink()
        (complete[-1] / "optimizer.pt").write_bytes(b"half")
    assert main(["train", "text", "--resume", str(folder), *rooms.flags]) == 0
    assert metrics(folder) == metrics(whole)
    assert len(list(Run(folder).rows("episodes.jsonl"))) == 8 * 16
    assert Run(folder).read_json("summary.json")["heldout"] == Run(whole).read_json("summary.json")["heldout"]


def test_the_starter_run_killed_and_resumed_gives_the_figures_of_one_that_was_not(
    starter_rooms: Any, tmp_path: Path
) -> None:
    runs = {name: tmp_path / name for name in ("undisturbed", "shot")}
    command = {
        name: [*STARTER, "--runs", str(tmp_path), "--name", name, *starter_rooms.flags] for name in runs
    }
    assert main(command["undisturbed"]) == 0
    process = start(*command["shot"])
    wait_for_step(runs["shot"], 5, process)
    process.kill()
    process.communicate()
    assert main(["train", "text", "--resume", str(runs["shot"]), *starter_rooms.flags]) == 0
    expected = metrics(runs["undisturbed"])
    assert metrics(runs["shot"]) == expected
    assert [row["step"] for row in expected] == list(range(1, 9))
    assert any(row["pass_rate"] > 0 for row in expected)
    assert len({row["reward/multiplier"] for row in expected}) > 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_saves_a_checkpoint_says_how_to_go_on_and_does(
    whole: Path, student_folder: Path, rooms: Any, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "stopped"
    process = start(*argv(folder, student_folder, rooms))
    wait_for_step(folder, 3, process)
    process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == code, said
    assert f"--resume {folder}" in said
    last = metrics(folder)[-1]["step"]
    assert Run(folder).complete_checkpoints()[-1].name == f"checkpoint-{last}"
    assert main(["train", "text", "--resume", str(folder), *rooms.flags]) == 0
    assert metrics(folder) == metrics(whole)


def test_a_live_run_is_left_alone_by_a_second_one(
    whole: Path, student_folder: Path, rooms: Any, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "live"
    process = start(*argv(folder, student_folder, rooms))
    wait_for_step(folder, 3, process)
    process.send_signal(signal.SIGSTOP)  # so that the run cannot end before the second one has looked
    try:
        assert main(["train", "text", "--resume", str(folder), *rooms.flags]) == 2
    finally:
        process.send_signal(signal.SIGCONT)
    said = capsys.readouterr().err
    assert f"process {process.pid} on " in said and "--resume" in said
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert metrics(folder) == metrics(whole)
    assert len(list(Run(folder).rows("episodes.jsonl"))) == 8 * 16


def test_services_killed_in_mid_run_and_started_again_cost_no_step_and_no_reward(
    whole: Path, student_folder: Path, own_rooms: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "outage"
    process = start(*argv(folder, student_folder, own_rooms))
    for step, service in ((2, own_rooms.decoder), (5, own_rooms.sandbox)):
        wait_for_step(folder, step, process)
        service.kill()
        time.sleep(OUTAGE_S)
        service.start()
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert metrics(folder) == metrics(whole)


def test_an_outage_that_lasts_ends_the_run_in_front_of_the_step_and_resume_takes_it(
    whole: Path, student_folder: Path, own_rooms: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "lasting"
    process = start(*argv(folder, student_folder, own_rooms, "--deadline-s", "1", "--max-outages", "2"))
    wait_for_step(folder, 5, process)
    own_rooms.sandbox.kill()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert "2 times in 1 s each" in said and f"--resume {folder}" in said
    assert "All reward functions returned None" not in said
    last = metrics(folder)[-1]["step"]
    assert f"stopped at step {last};" in said
    assert Run(folder).complete_checkpoints()[-1].name == f"checkpoint-{last}"
    assert metrics(folder) == metrics(whole)[:last]
    own_rooms.sandbox.start()
    own_rooms.sandbox.wait_ready()
    assert main(["train", "text", "--resume", str(folder), *own_rooms.flags]) == 0
    assert metrics(folder) == metrics(whole)
    assert len(list(Run(folder).rows("episodes.jsonl"))) == 8 * 16


def test_an_outage_in_a_held_out_evaluation_ends_the_run_and_resume_retakes_it(
    own_rooms: Any, tmp_path: Path
) -> None:
    # The starter's student: its greedy messages are not empty, so that the judge has to be asked.
    long = ["--max-steps", "2", "--eval-steps", "1", "--save-steps", "1", "--max-completion-length", "64"]
    quick = ["--deadline-s", "1", "--max-outages", "1"]
    whole, folder = tmp_path / "seen", tmp_path / "unseen"
    assert main(argv(whole, Path("starter"), own_rooms, *long)) == 0
    process = start(*argv(folder, Path("starter"), own_rooms, *long, *quick))
    wait_for_episodes(folder, 2, process)
    own_rooms.sandbox.kill()
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert "no held-out evaluation of step 2" in said and f"--resume {folder}" in said
    assert evaluations(folder) == evaluations(whole)[:-1]
    assert metrics(folder) == metrics(whole)
    resume = ["train", "text", "--resume", str(folder), *own_rooms.flags]
    own_rooms.sandbox.start()
    own_rooms.sandbox.wait_ready()
    assert main(resume) == 0
    assert evaluations(folder) == evaluations(whole)
    for name in ("checkpoints/best/best.json", "summary.json"):
        found, expected = Run(folder).read_json(name), Run(whole).read_json(name)
        assert {**found, "seconds": 0} == {**expected, "seconds": 0}


def test_a_full_disk_loses_nothing_that_was_written(student_folder: Path, rooms: Any, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    command = [
        sys.executable,
        "-m",
        "trainer.cli",
        *argv(folder, student_folder, rooms),
        "--max-steps",
        "400",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        # It has not begun to write: it loads its libraries.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (120 << 10, 120 << 10))
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 1, said
    assert "no room" in said or "disk" in said
    assert "Traceback" not in said
    assert all(isinstance(row, dict) for row in Run(folder).rows("episodes.jsonl"))


def test_one_batch_may_serve_several_updates(student_folder: Path, rooms: Any, tmp_path: Path) -> None:
    folder = tmp_path / "updates"
    assert main(argv(folder, student_folder, rooms, "--num-iterations", "2", "--max-steps", "4")) == 0
    rows = metrics(folder)
    assert ["reward/mean" in row for row in rows] == [True, False, True, False]
    assert len(list(Run(folder).rows("episodes.jsonl"))) == 2 * 16


def test_a_group_that_all_fails_moves_nothing_under_the_ratio(
    student_folder: Path, rooms: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "ratio"
    more = ["--reward", "ratio", "--max-steps", "2", "--scale-rewards", "group"]
    assert main(argv(folder, student_folder, rooms, *more)) == 0
    assert all(row["grad_norm"] == 0 and row["reward/mean"] == -1 for row in metrics(folder))


def test_a_run_of_that_name_is_not_touched(
    whole: Path, student_folder: Path, rooms: Any, capsys: Any
) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    assert main(argv(whole, student_folder, rooms)) == 2
    assert "--resume" in capsys.readouterr().err
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--learning-rate", "1"), ("--min-assurance", "in_sandbox"), ("--max-program-tokens", "9"),
        ("--generator-temperature", "1"), ("--limits-cpu-s", "1"),
    ],
)  # fmt: skip
def test_a_resumed_run_keeps_its_settings(whole: Path, capsys: Any, flag: str, value: str) -> None:
    assert main(["train", "text", "--resume", str(whole), flag, value]) == 2
    setting = flag[2:].replace("-", "_").replace("limits_cpu_s", "limits")
    assert f"a run keeps its settings ({setting})" in capsys.readouterr().err


def test_a_batch_that_holds_no_whole_groups_is_refused(
    student_folder: Path, rooms: Any, tmp_path: Path, capsys: Any
) -> None:
    assert main(argv(tmp_path / "odd", student_folder, rooms, "--num-generations", "5")) == 2
    assert "num_generations=5 does not divide the 16 messages" in capsys.readouterr().err


def test_the_wrong_generator_is_refused_before_anything_is_trained(
    student_folder: Path, rooms: Any, tmp_path: Path, capsys: Any
) -> None:
    assert main(argv(tmp_path / "other", student_folder, rooms, "--generator-model", "Qwen/X")) == 2
    assert "DECODER_MODEL=Qwen/X" in capsys.readouterr().err


def test_a_run_whose_folder_was_copied_resumes_there(whole: Path, rooms: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "summary.json").unlink()
    (copy / "evaluation.json").write_text('{"checkpoint": "best (step 1)"}')  # of when it was not finished
    assert main(["train", "text", "--resume", str(copy), *rooms.flags]) == 0
    assert (copy / "summary.json").is_file() and not (copy / "evaluation.json").exists()
    assert (copy / "evaluation-best-step-1.json").is_file()


def test_a_held_out_task_that_the_judge_refuses_is_named_before_the_first_step(
    rooms: Any, tmp_path: Path, capsys: Any
) -> None:
    row = {
        "text": "Write a function to double a number.", "reference": "def twice(x):\n    return 2 * x\n",
        "tests": ["assert twice(2) == 4"],
    }  # fmt: skip
    splits = ["train"] * 12 + ["validation"] * 2 + ["test"] * 2
    rows = [row | {"task_id": f"own/{n}", "split": split} for n, split in enumerate(splits)]
    rows[-1]["tests"] = ["for i in range(3):\n    assert twice(i) == 2 * i"]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = tmp_path / "refused"
    more = ["--dataset", str(file), "--min-assurance", "value", "--max-completion-length", "64"]
    assert main(argv(folder, Path("starter"), rooms, *more)) == 2
    said = capsys.readouterr().err
    assert "task own/15" in said and "Traceback" not in said
    assert not folder.exists()
