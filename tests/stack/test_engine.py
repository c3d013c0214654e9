"""`engine.sh` tells a machine on which Docker cannot start from a command that failed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "tests/stack/engine.sh")
    return subprocess.run([script, *command], env=environment, capture_output=True, text=True, timeout=60)


def test_where_no_engine_can_start_the_code_is_69_and_the_reason_is_said(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "dockerd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho failed to start daemon: no iptables >&2\nexit 1\n")
    program.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "SANDBOX_DOCKER_HOST"}
    environment |= {"ENGINE": str(tmp_path / "engine"), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = run(environment, "true")
    assert done.returncode == 69
    assert ("no iptables" if os.geteuid() == 0 else "only root") in done.stderr


def test_the_code_of_the_command_is_passed_on() -> None:
    assert run({**os.environ, "SANDBOX_DOCKER_HOST": "unix:///given"}, "sh", "-c", "exit 3").returncode == 3
