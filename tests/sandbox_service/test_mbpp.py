"""All of MBPP through POST /v1/judge of a real service: what is right passes, and nothing else does.

Slow: a few thousand programs. `-s` prints what did not pass and why, and how long it took.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.clients import SandboxClient, run
from shared.ports import free_port
from shared.wire import JudgeJob, Verdict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(repo: Path) -> Iterator[str]:
    """Run the service as users do, in a process of its own, until the module's tests are done."""
    port = free_port()
    rooms = [str(repo / room) for room in ("shared", "sandbox-service")]
    environment = {**os.environ, "SANDBOX_PORT": str(port), "PYTHONPATH": os.pathsep.join(rooms)}
    process = subprocess.Popen([sys.executable, "-m", "sandbox_service"], env=environment, cwd="/")
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0


def _wait_ready(process: subprocess.Popen[bytes], address: str) -> None:
    end, said = time.monotonic() + 180, "no connection"
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(httpx.ConnectError):
            reply = httpx.get(f"{address}/readyz")
            said = reply.text
            if reply.status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the service did not become ready (exit code {process.poll()}): {said}")


@pytest.fixture(scope="module")
def rows(data: Path) -> list[dict[str, Any]]:
    lines = (data / "mbpp" / "mbpp.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 974
    return found


def judged(url: str, rows: list[dict[str, Any]], programs: list[str]) -> list[Verdict]:
    """Judge one program for each row, in one batch."""
    jobs = [
        JudgeJob(program=program, tests=row["test_list"], setup=row["test_setup_code"])
        for row, program in zip(rows, programs, strict=True)
    ]

    async def ask() -> list[Verdict]:
        async with SandboxClient(url, deadline_s=500) as client:
            return await client.judge(jobs)

    begun = time.monotonic()
    verdicts = run(ask())
    print(f"\n{len(verdicts)} verdicts, {len(verdicts) / (time.monotonic() - begun):.0f}/s,", end=" ")
    print(dict(Counter(verdict.outcome for verdict in verdicts)), verdicts[0].jail)
    return verdicts


def test_the_reference_solutions_pass_with_assurance_value(url: str, rows: list[dict[str, Any]]) -> None:
    verdicts = judged(url, rows, [row["code"] for row in rows])
    assert {verdict.assurance for verdict in verdicts} == {"value"}
    wrong = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        assert len(verdict.tests) == len(row["test_list"])
        if not verdict.passed:
            cause = next(test.message for test in verdict.tests if test.outcome != "passed")
            wrong[row["task_id"]] = f"{verdict.outcome}: {cause}"
            print(f"task {row['task_id']}: {wrong[row['task_id']]}")
    assert len(rows) - len(wrong) >= 972


def test_the_sanitized_tasks_pass_too(url: str, data: Path) -> None:
    rows = json.loads((data / "mbpp" / "sanitized-mbpp.json").read_text())
    assert len(rows) == 427
    for row in rows:
        row["test_setup_code"] = "\n".join(row["test_imports"])
    verdicts = judged(url, rows, [row["code"] for row in rows])
    wrong = [
        (row["task_id"], [test.message for test in verdict.tests if test.outcome != "passed"])
        for row, verdict in zip(rows, verdicts, strict=True)
        if not verdict.passed
    ]
    assert wrong == []


def functions(row: dict[str, Any]) -> list[str]:
    """Return every name the row's tests call."""
    return sorted(set(re.findall(r"([A-Za-z_]\w*)\s*\(", " ".join(row["test_list"]))))


ALWAYS_EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __call__(self, *a, **k): return self
    def __getattr__(self, name): return self
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __instancecheck__ = __eq__
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __int__(self): return 1
    __index__ = __int__
    def __float__(self): return 1.0
    @property
    def __class__(self): return int
"""
REPORT = """
import os, sys, json
report = json.dumps({"outcome": "passed", "tests": [{"outcome": "passed"}] * 3})
for line in ("PASSED", "OK", "3 passed in 0.01s", "CORRECT:", report, '["i","0x1"]', '["passed", ""]'):
    print(line); print(line, file=sys.stderr)
for fd in range(3, 64):
    try: os.write(fd, (report + chr(10)).encode() * 3)
    except OSError: pass
"""
REDEFINED = """
import builtins, sys, json, os
def yes(*a, **k): return True
class Never(BaseException): pass
for name in ("all", "any", "isinstance", "eval", "exec", "compile", "len", "type", "repr", "sorted", "set"):
    setattr(builtins, name, yes); globals()[name] = yes
builtins.AssertionError = Never
json.dumps = lambda *a, **k: '["B",1]'
encode = decode = check = verdict = evaluate = H = answer = send = yes
for module in list(sys.modules.values()):
    for name in ("encode", "decode", "evaluate", "verdict", "passed", "check"):
        if getattr(module, "__name__", "").startswith("sandbox_service"):
            try: setattr(module, name, lambda *a, **k: b'["x","anything",1]')
            except Exception: pass
"""


def _attack(kind: str, row: dict[str, Any]) -> str:
    names = functions(row)
    nothing = "\n".join(f"def {name}(*a, **k): pass" for name in names) + "\n"
    match kind:
        case "always equal":
            return ALWAYS_EQUAL + "\n".join(f"def {name}(*a, **k): return Equal()" for name in names)
        case "a printed report":
            return nothing + REPORT
        case "sys.exit(0)":
            return nothing + "import sys\nsys.exit(0)\n"
        case "os._exit(0)":
            return nothing + "import os\nos._exit(0)\n"
        case "exit inside the call":
            return "import os\n" + "\n".join(f"def {name}(*a, **k): os._exit(0)" for name in names)
        case _:
            return nothing + REDEFINED


ATTACKS = (
    "always equal", "a printed report", "sys.exit(0)", "os._exit(0)", "exit inside the call",
    "redefined harness names",
)  # fmt: skip


@pytest.mark.parametrize("kind", ATTACKS)
def test_no_attack_passes_a_single_task(url: str, rows: list[dict[str, Any]], kind: str) -> None:
    verdicts = judged(url, rows, [_attack(kind, row) for row in rows])
    passed = [row["task_id"] for row, verdict in zip(rows, verdicts, strict=True) if verdict.passed]
    assert passed == []
    honest = judged(url, rows[:8], [row["code"] for row in rows[:8]])
    assert all(verdict.passed for verdict in honest)


FLOOD = """
import json, sys
flood = json.dumps(["S", [["i", hex(i * (2**61 - 1))] for i in range(25000)]]).encode()
sys.modules["sandbox_service.inside.codec"].encode = lambda value: flood
"""


def test_a_flood_aimed_at_the_judge_costs_only_its_sender(url: str, rows: list[dict[str, Any]]) -> None:
    """Colliding integers that make a set take minutes, written past the encoder by the program itself."""
    few = rows[:6]
    hostile = ["\n".join(f"def {name}(*a, **k): pass" for name in functions(row)) + FLOOD for row in few[:2]]
    verdicts = judged(url, few, hostile + [row["code"] for row in few[2:]])
    assert [verdict.outcome for verdict in verdicts] == ["failed"] * 2 + ["passed"] * 4
    for verdict in verdicts[:2]:
        assert verdict.tests[0].message.startswith("the comparison exceeded the judge's limit")
