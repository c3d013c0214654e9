"""Programs run whole: judged by what they print, and run for SandboxFusion's clients."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

ADD = "a, b = map(int, input().split())\nprint(a + b)"


def judge(sandbox: httpx.Client, **job: Any) -> dict[str, Any]:
    reply = sandbox.post("/v1/judge", json={"jobs": [job]})
    assert reply.status_code == 200, reply.text
    verdict: dict[str, Any] = reply.json()["verdicts"][0]
    return verdict


def io(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"stdin": read, "stdout": printed} for read, printed in pairs]


def test_a_script_is_judged_by_what_it_prints(sandbox: httpx.Client) -> None:
    verdict = judge(sandbox, program=ADD, io=io(("1 2\n", "3\n"), ("3 4", "7"), ("1 1\n", "3\n")))
    assert [test["outcome"] for test in verdict["tests"]] == ["passed", "passed", "failed"]
    assert verdict["tests"][2]["message"] == "line 1: expected '3', got '2'"
    assert (verdict["outcome"], verdict["assurance"]) == ("failed", "value")
    assert verdict["usage"]["cpu_ms"] > 0


@pytest.mark.parametrize(
    ("program", "read", "printed", "outcome"),
    [
        ("if __name__ == '__main__':\n    print('main')", "", "main", "passed"),
        ("import sys\nprint(len(sys.stdin.read()))", "é\n" * 3, "6", "passed"),
        ("import os\nprint(os.read(0, 100))", "raw", "b'raw'", "passed"),
        ("import sys\nfor line in sys.stdin: print(line.strip()[::-1])", "ab\ncd\n", "ba\ndc\n\n", "passed"),
        ("print('x   ')\nprint()", "", "x", "passed"),
        ("print('é', '\\udcff'.encode('utf-8', 'replace'))", "", "é b'?'", "passed"),
        ("print('x' * 300_000)", "", "x" * 300_000, "passed"),
        ("print(input())", "", "x", "raised"),
        ("print('x')\nraise SystemExit", "", "x", "passed"),
        ("print('x')\nimport sys\nsys.exit(3)", "", "x", "failed"),
        ("print('x')\nimport os\nos._exit(0)", "", "x", "failed"),  # it never flushed
        ("print('x')\n1 / 0", "", "x", "raised"),
        ("def f(:", "", "x", "raised"),
        ("while True: pass", "", "x", "timeout"),
        ("while True: print('x' * 9999)", "", "x", "output_limit"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "", "x", "memory"),
        ("", "", "", "passed"),
        ("print('a')\nprint('b')", "", "a\nb\nc", "failed"),
    ],
)
def test_how_a_script_ends_is_told_apart(
    sandbox: httpx.Client, program: str, read: str, printed: str, outcome: str
) -> None:
    # gVisor's CPU clock runs on while others are at work: what ends otherwise than by time has plenty of it.
    cpu_s = 1 if outcome == "timeout" else 10
    limits = {"cpu_s": cpu_s, "wall_s": 15, "memory_mb": 128, "output_kb": 512}
    verdict = judge(sandbox, program=program, io=io((read, printed)), limits=limits)
    assert verdict["outcome"] == outcome, verdict


def test_statements_and_scripts_make_one_verdict(sandbox: httpx.Client) -> None:
    program = "def f(x): return x + 1\nif __name__ == '__main__': print(f(int(input())))"
    verdict = judge(sandbox, program=program, tests=["assert f(1) == 2"], io=io(("4", "5")))
    assert [test["outcome"] for test in verdict["tests"]] == ["passed", "passed"]
    verdict = judge(sandbox, program=program, tests=["assert f(1) == 2"], io=io(("4", "6")))
    assert [test["outcome"] for test in verdict["tests"]] == ["passed", "failed"]


def test_a_job_without_any_test_is_refused(sandbox: httpx.Client) -> None:
    reply = sandbox.post("/v1/judge", json={"jobs": [{"program": "x = 1"}]})
    assert reply.status_code == 422
    assert "`tests` has statements, `io` has stdin and stdout" in reply.text


def test_no_run_reads_what_another_was_given(sandbox: httpx.Client) -> None:
    look = "import os, sys\nprint(sys.stdin.read() == '', sorted(os.listdir('.')))"
    verdict = judge(sandbox, program=look, io=io(*[("", "True []")] * 3))
    assert verdict["outcome"] == "passed", verdict
    judge(sandbox, program="input()", io=io(("secret\nsecret", "")))
    assert judge(sandbox, program=look, io=io(("", "True []")))["outcome"] == "passed"


def run_code(sandbox: httpx.Client, **fields: Any) -> httpx.Response:
    return sandbox.post("/run_code", json={"language": "python", **fields}, timeout=60)


def test_run_code_answers_as_sandbox_fusion_does(sandbox: httpx.Client) -> None:
    reply = run_code(
        sandbox, code=ADD, stdin="2 3", compile_timeout=5, run_timeout=5, files={}, extra=1
    ).json()
    assert reply["status"] == "Success"
    result = reply["run_result"]
    assert (result["status"], result["return_code"], result["stdout"]) == ("Finished", 0, "5\n")
    assert result["execution_time"] > 0
    failed = run_code(sandbox, code="print(1)\nassert 1 == 2, 'no'").json()
    assert failed["status"] == "Failed"
    assert failed["run_result"]["return_code"] == 1
    assert failed["run_result"]["stdout"] == "1\n"
    assert "AssertionError: no" in failed["run_result"]["stderr"]
    assert "sandbox_service" not in failed["run_result"]["stderr"]
    late = run_code(sandbox, code="import time\ntime.sleep(30)", run_timeout=1).json()
    assert (late["status"], late["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    killed = run_code(sandbox, code="import os\nos.kill(os.getpid(), 9)").json()
    assert (killed["status"], killed["run_result"]["status"]) == ("Failed", "Error")


def test_run_code_brings_files_and_refuses_what_it_cannot_do(sandbox: httpx.Client) -> None:
    files = {
        "data/in.txt": base64.b64encode(b"hello").decode(),
        "helper.py": base64.b64encode(b"x = 7").decode(),
    }
    code = "import helper\nprint(open('data/in.txt').read(), helper.x)"
    assert run_code(sandbox, code=code, files=files).json()["run_result"]["stdout"] == "hello 7\n"
    for fields, named in (
        ({"files": {"/etc/passwd": "eA=="}}, "files"), ({"files": {"../x": "eA=="}}, "files"),
        ({"files": {"x": "!"}}, "base64"), ({"fetch_files": ["x"]}, "fetch_files"),
        ({"language": "cpp"}, "language"),
    ):  # fmt: skip
        reply = run_code(sandbox, code="print(1)", **fields)
        assert reply.status_code in (422, 501), reply.text
        assert named in reply.json()["detail"]


def test_ten_megabytes_of_honest_output_are_no_timeout(sandbox: httpx.Client) -> None:
    reply = run_code(sandbox, code="for _ in range(100): print('x' * 104_857)", run_timeout=10).json()
    assert reply["status"] == "Success", reply["message"]
    assert len(reply["run_result"]["stdout"]) == 100 * 104_858
