"""A whole run speaks to its services and to nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# Every name that is looked up and every address that is called, of the command that follows.
WATCHED = """
import json, sys
asked = set()

def note(event, arguments):
    if event == "socket.getaddrinfo":
        asked.add(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.add(str(arguments[1][0]))

sys.addaudithook(note)
from trainer.cli import main
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(sorted(asked)))
sys.exit(code)
"""
FLAGS = [
    "--dataset", "starter", "--no-lora", "--generator-model", "echo", "--train-tasks", "4",
    "--max-steps", "1", "--batch-size", "8", "--num-generations", "4", "--device", "cpu",
    "--max-completion-length", "8", "--no-gradient-checkpointing", "--threads", "1",
    "--validation-tasks", "2", "--heldout-tasks", "2",
]  # fmt: skip


def test_a_run_calls_its_services_and_nobody_else(student_folder: Path, rooms: Any, tmp_path: Path) -> None:
    file, place = tmp_path / "asked.json", ["--runs", str(tmp_path), "--student-model", str(student_folder)]
    argv = [sys.executable, "-c", WATCHED, file, "train", "text", *FLAGS, *place, *rooms.flags]
    # What a user's environment holds, and not what a machine for tests may have switched off.
    free = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_HUB", "DISABLE_TEL", "DO_NOT_TRACK"))
    }
    done = subprocess.run(argv, env=free, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text()) == ["127.0.0.1"]
