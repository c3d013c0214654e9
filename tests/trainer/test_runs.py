"""The run folder: whole lines, whole files, whole checkpoints."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.config import ConfigError, resolve
from trainer.config_text import TextConfig
from trainer.runs import LOCK, DiskFull, Run, end_of, is_disk_full, mark_complete, read_state, resume_command


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "r", TextConfig())


def checkpoint(run: Run, step: int, *, whole: bool = True) -> Path:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    if whole:
        mark_complete(folder, {"step": step})
    return folder


def test_a_run_does_not_overwrite_another(run: Run) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        Run.create(run.folder.parent, "r", TextConfig())


def test_the_saved_config_starts_the_same_run_again(run: Run) -> None:
    assert resolve(TextConfig, [run.folder / "config.yaml"], {}) == TextConfig()


def test_the_resume_command_is_whole_for_one_process_and_for_several() -> None:
    folder = Path("runs/a b")
    assert resume_command("text", folder) == "psuedoptimal train text --resume 'runs/a b'"
    several = "torchrun --nproc_per_node 2 -m trainer.cli train program --resume 'runs/a b'"
    assert resume_command("program", folder, 2) == several


@pytest.mark.parametrize("flag", [["--resume", "runs/a b"], ["--resume=runs/a b"]])
def test_after_a_resumed_run_the_command_keeps_its_flags(
    monkeypatch: pytest.MonkeyPatch, flag: list[str]
) -> None:
    words = ["train", "text", *flag, "--decoder-url", "http://other:8002"]
    monkeypatch.setattr("sys.argv", ["/bin/psuedoptimal", *words])
    assert shlex.split(resume_command("text", Path("runs/a b"))) == ["psuedoptimal", *words]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run here"):
        Run.open(tmp_path)


def test_a_run_has_one_writer_who_is_named_to_the_next_and_whose_death_frees_it(run: Run) -> None:
    code = (
        "import sys, time; from pathlib import Path; from trainer.runs import Run\n"
        f"with Run(Path({str(run.folder)!r})).held(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"process {other.pid} on .*--resume"), run.held():
            pass
        other.kill()
    for _ in range(2):
        with run.held():
            assert f"process {os.getpid()} on" in (run.folder / LOCK).read_text(encoding="utf-8")


def test_lines_come_back_as_they_went(run: Run) -> None:
    rows = [{"step": 1, "message": "é\n\u2028\x00"}, {"step": 2, "message": None}]
    run.append("episodes.jsonl", rows)
    run.append("episodes.jsonl", [])
    assert list(run.rows("episodes.jsonl")) == rows
    assert list(run.rows("absent.jsonl")) == []


def test_a_lone_surrogate_does_not_lose_the_line(run: Run) -> None:
    run.append("episodes.jsonl", [{"step": 1, "message": "\ud800"}])
    assert next(run.rows("episodes.jsonl"))["message"] == "?"


def test_rewinding_drops_later_lines_torn_lines_and_half_written_checkpoints(run: Run) -> None:
    for step in (0, 1, 2, 3):
        run.append("metrics.jsonl", [{"step": step}])
        run.append("episodes.jsonl", [{"step": step}, {"step": step}])
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    kept = checkpoint(run, 2)
    half = checkpoint(run, 3, whole=False)
    assert run.rewind() == kept
    assert [row["step"] for row in run.rows("metrics.jsonl")] == [0, 1, 2]
    assert [row["step"] for row in run.rows("episodes.jsonl")] == [0, 0, 1, 1, 2, 2]
    assert not half.exists()
    assert read_state(kept) == {"step": 2}


def test_without_a_whole_checkpoint_the_run_starts_over(run: Run) -> None:
    run.append("evaluations.jsonl", [{"step": 0}, {"step": 1}])
    assert run.rewind() is None
    assert list(run.rows("evaluations.jsonl")) == []


def test_checkpoints_are_ordered_by_step_not_by_name(run: Run) -> None:
    assert [checkpoint(run, step) for step in (9, 10, 100)] == run.complete_checkpoints()


def test_a_torn_line_alone_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"step": 1}\n{"step": 1, "x', encoding="utf-8")
    os.truncate(file, end_of(file, 9))
    assert file.read_text(encoding="utf-8") == '{"step": 1}\n'


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 64 KiB: the nearest thing to a full disk without a mount."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(run: Run) -> None:
    run.append("episodes.jsonl", [{"step": 1}])
    with pytest.raises(DiskFull):
        run.append("episodes.jsonl", [{"step": 2, "program": "x" * 100_000}])
    assert list(run.rows("episodes.jsonl")) == [{"step": 1}]
    run.write_json("summary.json", {"a": 1})
    with pytest.raises(DiskFull):
        run.write_json("summary.json", {"a": "x" * 100_000})
    assert json.loads((run.folder / "summary.json").read_text()) == {"a": 1}
    assert not list(run.folder.glob(".*.partial"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_with_the_way_out(run: Run) -> None:
    (run.folder / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="--resume") as caught:
        run.append("metrics.jsonl", [{"step": 1}])
    assert is_disk_full(caught.value)


def test_a_full_disk_is_recognised_behind_a_librarys_own_error() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("cannot save") from error
    except RuntimeError as error:
        assert is_disk_full(error)
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(RuntimeError("out of memory"))
    loop = RuntimeError("out of memory")
    loop.__cause__ = loop
    assert not is_disk_full(loop)
