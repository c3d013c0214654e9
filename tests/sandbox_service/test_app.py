"""The sandbox over HTTP, with a real jail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import pytest

GOOD = {"program": "def f(x):\n    return x + 1", "tests": ["assert f(1) == 2", "assert f(5) == 6"]}


def judge(client: httpx.Client, *jobs: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    reply = client.post("/v1/judge", json={"jobs": list(jobs), **more})
    assert reply.status_code == 200, reply.text
    verdicts = reply.json()["verdicts"]
    assert isinstance(verdicts, list)
    return verdicts


def test_verdicts_come_in_the_order_of_the_jobs(sandbox: httpx.Client) -> None:
    jobs = [
        {"program": f"def f():\n    return {n}", "tests": [f"assert f() == {n - n % 2}"]} for n in range(20)
    ]
    assert [one["outcome"] for one in judge(sandbox, *jobs)] == ["passed", "failed"] * 10


@pytest.mark.parametrize(
    "program",
    [
        "class E:\n    def __eq__(self, other): return True\ndef f(x):\n    return E()",
        "class I(int):\n    def __eq__(self, other): return True\ndef f(x):\n    return I(0)",
        "print('{\"passed\": true}')\nprint('OK')\ndef f(x):\n    return 0",
        "import os\nos._exit(0)",
        "import sys\ndef f(x):\n    sys.exit(0)",
        "import builtins\nbuiltins.AssertionError = builtins.isinstance = lambda *a: True\n"
        "def f(x):\n    return 0",
        "import sys\nfor name in [n for n in sys.modules if 'codec' in n]:\n"
        "    sys.modules[name].encode = lambda value: b'true'\ndef f(x):\n    return 0",
        ""
        "def f(x):\n    import inspect\n"
        "    return [v for i in inspect.stack() for v in i.frame.f_locals.values()]",
        "",
    ],
)
def test_no_trick_passes(sandbox: httpx.Client, program: str) -> None:
    verdict, honest = judge(sandbox, {**GOOD, "program": program}, GOOD)
    assert verdict["outcome"] not in ("passed",)
    assert honest["outcome"] == "passed"


def test_a_verdict_says_what_was_used_and_which_jail_it_was(sandbox: httpx.Client) -> None:
    (verdict,) = judge(sandbox, {**GOOD, "program": GOOD["program"] + "\nprint('hello')"})
    assert verdict["usage"]["cpu_ms"] > 0
    assert verdict["usage"]["wall_ms"] > 0
    figures = [*verdict["usage"].values(), *(test["wall_ms"] for test in verdict["tests"])]
    assert figures == [round(figure, 2) for figure in figures]
    assert verdict["stdout_tail"] == "hello\n"
    assert verdict["jail"] == sandbox.get("/v1/capabilities").json()["jail"]
    assert verdict["assurance"] == "value"


@pytest.mark.parametrize("python", ["/nowhere/python", "/usr/bin/true"])
def test_an_interpreter_that_is_none_ends_the_start_with_one_sentence(python: str) -> None:
    environment = {**os.environ, "SANDBOX_PYTHON": python, "SANDBOX_PORT": "0"}
    command = [sys.executable, "-m", "sandbox_service"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert said.startswith(f"sandbox-service did not start: SANDBOX_PYTHON={python}: not a Python")
    assert said.count("SANDBOX_PYTHON") == 1 and "name the program itself" in said


def test_a_test_that_cannot_be_judged_is_refused_with_its_place(sandbox: httpx.Client) -> None:
    bad = {"program": "x = 1", "tests": ["assert f(1) == 2", "import numpy\nassert numpy.all(f(1))"]}
    reply = sandbox.post("/v1/judge", json={"jobs": [GOOD, bad]})
    assert reply.status_code == 422
    assert reply.json()["field"].startswith("jobs[1].")


def test_a_data_sets_tests_are_linted_without_running_anything(sandbox: httpx.Client) -> None:
    tests = [
        "assert f(1) == 2",
        "x = 1\nfor i in range(3):\n    assert f(i)",
        "import os\nassert f(os.sep)",
        "f(:",
    ]
    idle = ["assert True"] * 2
    reply = sandbox.post("/v1/plan", json={"jobs": [{"tests": tests}, {"tests": tests[:2]}, {"tests": idle}]})
    assert reply.status_code == 200, reply.text
    first, second, third = reply.json()["jobs"]
    assert [test["assurance"] for test in first["tests"]] == ["value", "rpc", "in_sandbox", None]
    assert (first["assurance"], second["assurance"]) == (None, "rpc")
    assert [test["line"] for test in first["tests"]] == [0, 2, 1, 1]
    assert "a statement of kind For" in first["tests"][1]["reason"]
    assert "`os` is not available" in first["tests"][2]["reason"]
    assert "not Python" in first["tests"][3]["reason"]
    reason = "no test calls the program"
    assert third == {"assurance": None, "tests": [{"assurance": None, "line": 1, "reason": reason}] * 2}
    refused = sandbox.post("/v1/judge", json={"jobs": [{"program": "", "tests": idle}]})
    assert (refused.status_code, refused.json()["detail"]) == (422, reason)


def test_unknown_fields_are_refused(sandbox: httpx.Client) -> None:
    assert sandbox.post("/v1/judge", json={"jobs": [{**GOOD, "task": "x"}]}).status_code == 422


def test_execute_brings_one_variable_back(sandbox: httpx.Client) -> None:
    jobs = [
        {"program": "output = [1, 2.5, 'a']"}, {"program": "y = {1: 2}", "result": "y"}, {"program": "x = 1"},
        {"program": "output = object()"}, {"program": "1 / 0"},
        {"program": "while True: pass", "limits": {"cpu_s": 0.2}},
    ]  # fmt: skip
    done = sandbox.post("/v1/execute", json={"jobs": jobs}).json()["executions"]
    assert [one["outcome"] for one in done] == ["passed", "passed", "raised", "failed", "raised", "timeout"]
    assert done[0]["value"] == ["l", [["i", "0x1"], ["f", "0x1.4000000000000p+1"], ["s", "a"]]]
    assert done[3]["value"] is None


def test_text_that_cannot_be_written_costs_no_other_job_its_answer(sandbox: httpx.Client) -> None:
    odd = "class A: pass\nA.__module__ = '\\ud800'\noutput = "
    forged = (
        "from sandbox_service.inside import codec\noutput = 1\n"
        'codec.encode = lambda *a: b\'["l",[["x","\\\\ud800",1]]]\''
    )
    deep = "output = 1\nfor _ in range(59): output = {1: output}"
    programs = [f"{odd}[A()]", f"{odd}A()", forged, deep, "raise ValueError(chr(0xd800))",
                "import sys\nsys.stdout.buffer.write(b'\\xed\\xa0\\x80')\noutput = chr(0xd800)"]  # fmt: skip
    jobs = [{"program": program} for program in (*programs, "output = [1]")]
    reply = sandbox.post("/v1/execute", json={"jobs": jobs})
    assert reply.status_code == 200, reply.text
    done = reply.json()["executions"]
    outcomes = ["passed", "failed", "failed", "passed", "raised", "passed", "passed"]
    assert [one["outcome"] for one in done] == outcomes
    assert done[0]["value"] == ["l", [["x", "?.A", 1]]]
    loop = "for i in [1]: assert f(i) == i, str(f(i))"
    judge(sandbox, *({"program": f"{one}\ndef f(x): return output", "tests": [loop, "assert f(1) == 2"]}
                     for one in programs))  # fmt: skip
    for one in programs:
        assert sandbox.post("/run_code", json={"code": one}).status_code == 200


def test_results_stream_as_they_end(sandbox: httpx.Client) -> None:
    slow = {"program": "import time\ntime.sleep(1.5)\ndef f(x): return x + 1", "tests": GOOD["tests"]}
    body = {"jobs": [slow, GOOD, GOOD]}
    with sandbox.stream("POST", "/v1/judge", json=body, headers={"Accept": "application/x-ndjson"}) as reply:
        assert reply.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in reply.iter_lines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2]
    assert lines[-1]["index"] == 0
    assert {line["verdict"]["outcome"] for line in lines} == {"passed"}


def test_a_full_queue_is_told_at_once_and_says_when_to_come_back(sandbox: httpx.Client) -> None:
    slow = {"program": "import time\ntime.sleep(2)", "limits": {"wall_s": 10}}
    first = threading.Thread(target=lambda: sandbox.post("/v1/execute", json={"jobs": [slow] * 4}))
    first.start()
    time.sleep(0.5)
    reply = sandbox.post("/v1/judge", json={"jobs": [GOOD] * 97})
    stream = sandbox.post("/v1/judge", json={"jobs": [GOOD] * 97}, headers={"Accept": "application/x-ndjson"})
    first.join()
    assert (reply.status_code, stream.status_code) == (429, 429)
    assert int(reply.headers["Retry-After"]) >= 1
    assert judge(sandbox, *[GOOD] * 100)[99]["outcome"] == "passed"


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_client_that_goes_away_frees_the_lanes(sandbox: httpx.Client, accept: str) -> None:
    body = {"jobs": [{"program": "import time\ntime.sleep(50)", "limits": {"wall_s": 60}}] * 10}
    with pytest.raises(httpx.ReadTimeout):
        sandbox.post("/v1/execute", json=body, timeout=0.7, headers={"Accept": accept})
    started = time.monotonic()
    assert judge(sandbox, GOOD)[0]["outcome"] == "passed"
    assert time.monotonic() - started < 20
    assert "sandbox_jobs 0.0" in sandbox.get("/metrics").text


def test_capabilities_say_what_holds_and_what_does_not(sandbox: httpx.Client) -> None:
    told = sandbox.get("/v1/capabilities").json()
    assert told["probes"] and all(one["held"] for one in told["probes"])
    assert told["layers"] and told["weaknesses"]
    assert (told["lanes"], told["queue_limit"]) == (2, 100)
    assert sandbox.get("/healthz").json()["jail"] == told["jail"]
