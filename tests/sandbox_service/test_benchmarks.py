"""The sandbox's long measurements, short: what they would find in an hour must not show in seconds."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SLOW_JAILS = [
    pytest.param("gvisor", marks=[pytest.mark.slow, pytest.mark.gvisor]),
    pytest.param("docker", marks=[pytest.mark.slow, pytest.mark.docker]),
]


def measured(repo: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end."""
    command = [sys.executable, str(repo / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--data", "/nowhere"],
            "--data /nowhere: there is no mbpp/mbpp.jsonl; put MBPP's published file there",
        ),
        (["--python", "/nowhere", "--data", "{data}"], "--python /nowhere: no Python that runs"),
        (["--clients", "0"], "argument --clients: '0': give a whole number from 1"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_way_out(
    repo: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "mbpp.jsonl").touch()
    done = measured(repo, "sandbox.py", *(word.format(data=tmp_path) for word in arguments))
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("jail", ["bwrap", *SLOW_JAILS])
def test_nothing_leaks_and_a_killed_service_leaves_nothing(repo: Path, jail: str) -> None:
    done = measured(
        repo, "soak.py", "--jail", jail, "--verdicts", "200", "--attacks", "8", "--data", "/nowhere"
    )
    if "did not start" in done.stderr:
        pytest.skip(f"no {jail} jail here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_worker_that_is_started_again_is_no_leak_and_descriptors_without_one_are(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    census = importlib.import_module("soak").Census
    before = census(6, 3, 3, 39, 0, 0, 2, 67.0, 138.0)
    assert before._replace(processes=7, workers=4, descriptors=41, all_mb=148.0).grown(before) == []
    assert before._replace(descriptors=41).grown(before) == ["descriptors: 39 before, 41 after"]
    assert before._replace(workers=6).grown(before) == ["workers: 3 before, 6 after"]


def test_ten_times_too_much_work_is_refused_and_changes_no_verdict(repo: Path) -> None:
    done = measured(repo, "overload.py", "--jail", "process", "--seconds", "3")
    faults = re.findall("FAULT: (.*)", done.stdout)
    # How late what is let in may be is measured alone: other tests share these processors.
    assert [fault for fault in faults if not fault.startswith("p99")] == [], done.stdout + done.stderr
    assert "429" in done.stdout


@pytest.mark.parametrize("jail", ["bwrap", *SLOW_JAILS])
def test_a_busy_machine_changes_no_verdict_and_limits_bite(repo: Path, jail: str) -> None:
    done = measured(repo, "limits.py", "--jail", jail, "--times", "20")
    if "did not start" in done.stderr:
        pytest.skip(f"no {jail} jail here: {done.stderr[-300:]}")
    faults = re.findall("FAULT: (.*)", done.stdout)
    assert [fault for fault in faults if not fault.startswith("wall time")] == [], done.stdout + done.stderr
    assert "different verdict" in done.stdout
