"""The service as a process: start, refusal, drain, exit code, and what it writes to its log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

Start = Callable[..., Any]
KEY = "t0ken-that-must-not-leak"


def post(url: str, seed: int, found: list[httpx.Response | Exception], **headers: str) -> threading.Thread:
    """Post a request that takes `seed` milliseconds, from a thread."""

    def call() -> None:
        body = {"messages": ["a"], "seed": seed}
        try:
            found.append(
                httpx.post(f"{url}/v1/decode", json=body, timeout=60, headers=headers, trust_env=False)
            )
        except httpx.HTTPError as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread


def get(url: str, path: str) -> httpx.Response:
    return httpx.get(url + path, timeout=10, trust_env=False)


def test_sigterm_finishes_what_is_in_flight_and_takes_nothing_new(start: Start, free_port: int) -> None:
    process = start(free_port).wait_ready()
    found: list[httpx.Response | Exception] = []
    caller = post(process.url, 2000, found)
    time.sleep(0.5)
    process.terminate()
    time.sleep(0.3)
    ready, new = get(process.url, "/readyz"), get(process.url, "/v1/model")
    assert (ready.status_code, new.status_code) == (503, 503)
    assert "draining" in ready.json()["detail"]
    assert new.headers["retry-after"] == "1"
    caller.join(30)
    assert isinstance(found[0], httpx.Response) and found[0].status_code == 200
    assert process.child.wait(20) == 0


@pytest.mark.slow
def test_a_drain_ends_after_its_time_even_when_requests_do_not(start: Start, free_port: int) -> None:
    process = start(free_port, ECHO_DRAIN_S="0.5").wait_ready()
    found: list[httpx.Response | Exception] = []
    caller = post(process.url, 60_000, found)
    time.sleep(0.5)
    process.terminate()
    began = time.monotonic()
    assert process.child.wait(20) == 0
    assert time.monotonic() - began < 8
    caller.join(10)
    assert not isinstance(found[0], httpx.Response) or found[0].status_code >= 500
    assert "requests cut off" in process.log


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(start: Start, free_port: int) -> None:
    process = start(free_port, ECHO_DRAIN_S="60").wait_ready()
    caller = post(process.url, 60_000, [])
    time.sleep(0.5)
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    assert process.child.wait(20) == 0
    caller.join(10)


def test_a_thread_still_at_work_does_not_hold_the_exit(start: Start, free_port: int) -> None:
    process = start(free_port, ECHO_START="stuck", ECHO_CLEAN_UP_S="1").wait_ready()
    began = time.monotonic()
    process.terminate()
    assert process.child.wait(20) == 0
    assert 1 <= time.monotonic() - began < 5


def test_a_service_that_lost_its_device_leaves_with_its_error_though_a_thread_is_stuck(
    start: Start, free_port: int
) -> None:
    process = start(free_port, ECHO_START="lost", ECHO_CLEAN_UP_S="1")
    assert process.child.wait(20) == 2
    assert process.log.rstrip().endswith("echo did not start: the device is lost; start it anew")


def test_an_idle_service_leaves_at_once(start: Start, free_port: int) -> None:
    process = start(free_port).wait_ready()
    began = time.monotonic()
    process.terminate()
    assert process.child.wait(20) == 0
    assert time.monotonic() - began < 3


def test_signals_at_one_moment_are_one(start: Start, free_port: int) -> None:
    process = start(free_port).wait_ready()
    found: list[httpx.Response | Exception] = []
    caller = post(process.url, 1500, found)
    time.sleep(0.5)
    for _ in range(5):
        process.terminate()
        time.sleep(0.01)
    caller.join(30)
    assert isinstance(found[0], httpx.Response) and found[0].status_code == 200
    assert process.child.wait(20) == 0
    assert "requests cut off" not in process.log


def test_a_taken_port_is_refused_with_port_setting_and_way_out(start: Start, free_port: int) -> None:
    start(free_port).wait_ready()
    second = start(free_port)
    assert second.child.wait(30) == 2
    line = second.log.strip().splitlines()[-1]
    assert line.startswith(f"ECHO_PORT={free_port}: address already in use")
    assert "or set ECHO_PORT to another port" in line


@pytest.mark.slow
def test_a_start_that_fails_says_why_and_whose_fault(start: Start, free_port: int) -> None:
    refused, broken = start(free_port, ECHO_START="refused"), start(free_port, ECHO_START="broken")
    assert refused.child.wait(30) == 2
    starting, said = refused.log.strip().splitlines()
    assert json.loads(starting)["event"] == "starting"
    assert said == "echo did not start: ECHO_START='refused': cannot start so; set ECHO_START=ok"
    assert broken.child.wait(30) == 1
    assert "ZeroDivisionError" in broken.log


def test_an_open_door_is_not_opened(start: Start, free_port: int) -> None:
    process = start(free_port, ECHO_HOST="0.0.0.0")
    assert process.child.wait(30) == 2
    assert process.log.startswith("ECHO_HOST='0.0.0.0': an address beyond this machine needs a token")


def test_every_log_line_is_json_and_carries_the_request(start: Start, free_port: int) -> None:
    process = start(free_port, ECHO_TOKEN=KEY, ECHO_HOST="0.0.0.0").wait_ready()
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": "id-1", "X-Run": "r9", "X-Step": "3"}
    for path in (f"/v1/%0a{{forged}}?token={KEY}", f"/{KEY}", "/bug", "/raise/broken"):
        httpx.get(process.url + path, headers=headers, trust_env=False)
    process.terminate()
    assert process.child.wait(20) == 0
    lines = [json.loads(line) for line in process.log.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 4
    for line in requests:
        assert (line["request_id"], line["run"], line["step"], line["service"]) == ("id-1", "r9", "3", "echo")
        assert line["wall_ms"] > 0
    bug, broken = (line for line in lines if "exception" in line)
    assert bug["request_id"] == "id-1" and "ZeroDivisionError" in bug["exception"]
    assert (broken["event"], broken["level"], broken["detail"]) == (
        "broken",
        "warning",
        "as asked; do not ask",
    )
    assert requests[0]["path"] == "/v1/\\n{forged}"
    assert KEY not in process.log
    assert any(line["event"] == "listening" and str(free_port) in line["url"] for line in lines)


@pytest.mark.slow
def test_port_0_takes_a_free_one_and_logs_it(start: Start) -> None:
    process = start(0)
    end = time.monotonic() + 30
    while "listening" not in process.log and time.monotonic() < end:
        time.sleep(0.05)
    url = next(json.loads(line)["url"] for line in process.log.splitlines() if "listening" in line)
    assert get(url, "/readyz").status_code == 200


@pytest.mark.slow
def test_lines_for_people_hold_no_control_characters(start: Start, free_port: int) -> None:
    process = start(free_port, ECHO_LOG_JSON="false").wait_ready()
    get(process.url, "/%1b[31mred%0anew-line")
    process.terminate()
    process.child.wait(20)
    assert "\x1b" not in process.log
    assert not any(line.startswith("new-line") for line in process.log.splitlines())


def test_a_token_file_is_read(start: Start, free_port: int, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{KEY}\n")
    process = start(free_port, ECHO_TOKEN_FILE=str(path)).wait_ready()
    assert get(process.url, "/v1/model").status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{process.url}/v1/model", headers=headers, trust_env=False).status_code == 200
