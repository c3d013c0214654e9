"""`train`: what is checked before anything starts, what a run saves, and what a failed one leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Unavailable
from trainer.cli import main
from trainer.cli_runs import told_how_to_go_on
from trainer.config import ConfigError, resolve
from trainer.config_program import ProgramConfig
from trainer.config_text import TextConfig
from trainer.runs import Run
from trainer.supervise import services

STARTER = ["--config", "starter-text.yaml"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["text", *STARTER, "--report-to", "wandb"], "report_to=wandb: not installed; `pip install wandb`"),
        (["text", *STARTER, "--report-to", "wandb", "clearml"], "`pip install wandb clearml`, or leave them"),
        (["program", "--config", "starter-program.yaml", "--report-to", "wandb"], "`pip install wandb`"),
        (["text", *STARTER, "--batch-size", "7"], "num_generations=8 does not divide the 7 messages"),
        (["text", *STARTER, "--student-model", "no/such/folder"], "neither a folder nor a hub name"),
        (["text", *STARTER, "--dataset", "stater"], "did you mean starter?"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *argv]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_setting_a_service_refuses_is_a_wrong_request_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("SANDBOX_LANE", "2")
    place = ["--runs", str(tmp_path), "--decoder-url", "http://127.0.0.1:9"]
    assert main(["train", "text", *STARTER, *place]) == 2
    said = capsys.readouterr().err
    assert (
        "the sandbox cannot be started so: SANDBOX_LANE: no such setting; did you mean SANDBOX_LANES?" in said
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "urls", "times"), [("0", 1, 1), ("1", 1, 0), ("0", 2, 0)])
def test_decoders_that_a_given_url_makes_needless_are_said_once(
    rank: str, urls: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    nobody, ranks = "http://127.0.0.1:9", str(int(rank) + 1)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    with services(tmp_path, None, [nobody], [nobody], decoders=2) as found:
        assert found == ([nobody], [nobody])
    place = ["--runs", str(tmp_path), "--name", "r", "--deadline-s", "0.1", "--decoders", "2"]
    given = ["--decoder-url", *[nobody] * urls, "--sandbox-url", nobody]
    assert main(["train", "text", *STARTER, *place, *given]) == 1
    assert capsys.readouterr().err.count("decoders=2 starts none: decoder_url names") == times


@pytest.mark.parametrize("argv", [["train", "text", *STARTER], ["evaluate"]])
def test_services_that_are_not_what_they_are_taken_for_are_said_before_a_model_is_loaded(
    argv: list[str], tmp_path: Path, rooms: Any
) -> None:
    if argv == ["evaluate"]:
        argv = [
            "evaluate",
            str(Run.create(tmp_path, "r", resolve(TextConfig, [Path(STARTER[1])], {})).folder),
        ]
    swapped = ["--decoder-url", rooms.sandbox.url, "--sandbox-url", rooms.decoder.url]
    heavy = "[name for name in ('torch', 'transformers') if name in sys.modules]"
    code = f"import sys; from trainer.cli import main; print(main(sys.argv[1:]), {heavy})"
    command = [sys.executable, "-c", code, *argv, *swapped]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"decoder at {rooms.sandbox.url}: GET /v1/model: no such route" in done.stderr
    assert done.stdout in ("1 []\n", "2 []\n")


@pytest.mark.parametrize("wrong", [ConfigError("x"), KeyboardInterrupt(), SystemExit(143)])
def test_a_new_run_that_recorded_nothing_is_forgotten(tmp_path: Path, wrong: BaseException) -> None:
    run = Run.create(tmp_path, "r", TextConfig())
    with pytest.raises(type(wrong)), told_how_to_go_on(run, "text", new=True):
        raise wrong
    assert not run.folder.exists()


@pytest.mark.parametrize("wrong", [ConfigError("x"), KeyboardInterrupt(), Unavailable("x"), OSError("x")])
def test_a_run_that_recorded_something_is_kept_and_the_whole_resume_command_said(
    tmp_path: Path, wrong: BaseException
) -> None:
    run = Run.create(tmp_path, "a run", TextConfig())
    run.append("evaluations.jsonl", [{"step": 0}])
    with pytest.raises(type(wrong)) as caught, told_how_to_go_on(run, "text", new=True):
        raise wrong
    assert caught.value.__notes__ == [f"go on with: psuedoptimal train text --resume '{run.folder}'"]
    assert run.folder.is_dir()


def test_a_service_that_stays_away_leaves_its_log_and_the_command(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", TextConfig())
    with pytest.raises(Unavailable) as caught, told_how_to_go_on(run, "program", new=True):
        raise Unavailable("see its log")
    assert caught.value.__notes__ == [f"go on with: psuedoptimal train program --resume {run.folder}"]
    assert run.folder.is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("unsaved", [[], ["--unsaved", "decoder_url", "sandbox_url"]])
def test_a_saved_run_can_be_repeated_under_a_name_of_its_own(
    tmp_path: Path, student_folder: Path, rooms: Any, unsaved: list[str]
) -> None:
    settings = [
        "--dataset", "starter", "--no-lora", "--generator-model", "echo", "--student-model",
        str(student_folder), "--train-tasks", "4", "--validation-tasks", "2", "--heldout-tasks", "2",
        "--max-steps", "1", "--batch-size", "4", "--gradient-accumulation-steps", "1", "--device", "cpu",
        "--num-generations", "2", "--max-completion-length", "4", "--save-steps", "1",
    ]  # fmt: skip
    place = ["--runs", str(tmp_path), "--name", "first", *unsaved]
    assert main(["train", "text", *settings, *place, *rooms.flags]) == 0
    file = tmp_path / "first" / "config.yaml"
    read = resolve(TextConfig, [file], {})
    urls = ([rooms.decoder.url], [rooms.sandbox.url]) if not unsaved else (None, None)
    assert (read.name, read.decoder_url, read.sandbox_url) == (None, *urls)
    if not unsaved:
        assert main(["train", "text", "--config", str(file)]) == 0
        again = [path for path in tmp_path.iterdir() if path.name != "first"]
        assert len(again) == 1 and (again[0] / "summary.json").is_file()


def test_a_run_inside_a_run_is_refused(tmp_path: Path, capsys: Any) -> None:
    outer = Run.create(tmp_path, "outer", TextConfig())
    for inside in (outer.folder, outer.folder / "deeper"):
        assert main(["demo", "--runs", str(inside)]) == 2
        assert f"give the folder above it ({tmp_path})" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="run folders do not nest"):
            Run.create(inside, "r", ProgramConfig())
    assert {path.name for path in outer.folder.iterdir()} == {"config.yaml", "checkpoints"}


def test_settings_of_a_run_that_goes_on_do_not_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = Run.create(tmp_path, "r", TextConfig(seed=3))
    monkeypatch.setenv("PSUEDOPTIMAL_SEED", "4")
    monkeypatch.setenv("PSUEDOPTIMAL_DEADLINE_S", "9")
    assert main(["train", "text", "--resume", str(run.folder), "--print-config"]) == 0
    said = capsys.readouterr().out
    assert "seed: 3\n" in said and "deadline_s: 9.0\n" in said


@pytest.mark.slow
def test_processes_on_cpu_are_joined_and_counted() -> None:
    code = (
        "from trainer.channels.processes import join\nimport torch\n"
        "found = join(cpu=True, patience=120)\n"
        "found.wait_for_everyone()\nprint(found.num_processes, flush=True)\n"
        "torch.distributed.destroy_process_group()"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "--no-python", sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # Both write at a time: a line's end may come late.
    assert sorted("".join(done.stdout.split())) == ["2", "2"]


@pytest.mark.parametrize(("processes", "steps"), [(1, 12), (2, 6), (3, 4)])
def test_two_epochs_are_two_epochs_on_any_number_of_processes(processes: int, steps: int) -> None:
    from trainer.channels.text.trainer import _data
    from trainer.tasks.starter import starter_tasks

    config = TextConfig(batch_size=4, gradient_accumulation_steps=2, num_generations=4, num_epochs=2)
    data, found = _data(config, starter_tasks("train", 12), processes)
    assert found == steps and found * config.groups(processes) == len(data) == 24
    assert sorted(data["task"][:12]) == sorted(data["task"][12:]) == list(range(12))


def test_processes_wait_longer_than_an_outage_that_the_run_waits_for() -> None:
    from trainer.channels.processes import patience_s

    assert patience_s(180.0) == 1800
    assert patience_s(180.0, tries=30) > 30 * 180


def test_a_process_that_would_score_parts_of_groups_is_refused() -> None:
    config = TextConfig(
        reward="relative", batch_size=1, gradient_accumulation_steps=1, num_generations=2, anchor_rate=0
    )
    with pytest.raises(ConfigError, match="each process samples 1 messages"):
        config.groups(2)
    assert config.model_copy(update={"reward": "ratio"}).groups(2) == 1
