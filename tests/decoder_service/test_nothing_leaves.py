"""What loads a model from a hub speaks to that hub and to nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Every name that is looked up while the room's package loads a model, and by the threads it begins.
WATCHED = """
import importlib, sys, threading
asked = set()
sys.addaudithook(lambda event, found: event == "socket.getaddrinfo" and asked.add(str(found[0])))
importlib.import_module(sys.argv[1])
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained("some/model")
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join(30)
print(*sorted(asked))
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["decoder_service", "trainer"])
def test_a_model_without_safetensors_is_told_to_no_converter(hub: str, package: str, tmp_path: Path) -> None:
    switches = ("HF_", "DISABLE_", "DO_NOT_TRACK", "TRANSFORMERS_")
    free = {name: value for name, value in os.environ.items() if not name.startswith(switches)}
    environment = {**free, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", WATCHED, package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["127.0.0.1"], done.stderr
