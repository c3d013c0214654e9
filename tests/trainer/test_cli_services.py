"""`serve`, `decode` and `judge`: what a person who asks one service sees."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import Unavailable
from shared.ports import free_port
from trainer.cli import main
from trainer.config import ConfigError
from trainer.supervise import Service

LOOP = "for n in range(3):\n    assert f(n) == 2 * n"


@pytest.mark.parametrize(("verb", "room"), [("decode", "decoder"), ("judge", "sandbox")])
def test_a_service_that_is_not_there_is_said_within_seconds_with_the_verb_that_starts_it(
    verb: str, room: str, capsys: Any
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    argv = ["decode", "m"] if verb == "decode" else ["judge", __file__, "--test", "assert f(1)"]
    started = time.monotonic()
    assert main([*argv, f"--{room}-url", url]) == 1
    assert time.monotonic() - started < 6
    said = capsys.readouterr().err
    assert f"{room} at {url}: not reachable" in said and f"start it (`psuedoptimal serve {room}`)" in said


@pytest.mark.parametrize("what", ["bytes", "folder"])
def test_what_is_no_program_is_no_verdict(what: str, tmp_path: Path, capsys: Any) -> None:
    place = tmp_path / what
    place.mkdir() if what == "folder" else place.write_bytes(b"\xff")
    assert main(["judge", str(place), "--test", "assert f(1)"]) == 2
    said = capsys.readouterr().err
    assert f"{place}: is no Python file in UTF-8" in said and "Errno" not in said


@pytest.mark.parametrize(
    ("text", "tests", "said"),
    [
        ("x=" * 150_000, ["assert f(1)"], "program='x=x="),
        ("x = 1", ["assert f(1)"] * 1001, "tests=['assert f(1)'"),
        ("x = 1", ["assert f('\udcff')"], "tests.0="),
    ],
)
def test_what_no_request_can_hold_is_no_verdict_either(
    text: str, tests: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "p.py").write_text(text, encoding="utf-8")
    argv = ["judge", str(tmp_path / "p.py"), "--sandbox-url", "http://127.0.0.1:9"]
    assert main([*argv, *(word for test in tests for word in ("--test", test))]) == 2
    shown = capsys.readouterr().err
    assert f"psuedoptimal: {said}" in shown and shown.count("\n") == 1 and len(shown) < 300


@pytest.mark.parametrize("verb", ["decode", "encode", "judge"])
def test_bytes_that_are_no_text_on_stdin_are_said(verb: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8"))
    more = {"decode": [], "encode": ["nowhere"], "judge": ["--test", "assert f(1)"]}[verb]
    assert main([verb, *more]) == 2
    assert "stdin: is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "said"), [("decode", "no message"), ("judge", "no program")])
def test_an_empty_stdin_is_no_request(verb: str, said: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert main([verb, *(["--test", "assert f(1)"] if verb == "judge" else [])]) == 2
    assert said in capsys.readouterr().err


def test_a_service_that_ended_is_not_ready_because_another_answers_at_its_port(
    rooms: Any, tmp_path: Path
) -> None:
    sandbox = urllib.parse.urlsplit(rooms.sandbox.url).port
    second = Service("sandbox", tmp_path / "sandbox.log", port=sandbox or 0)
    second.start()
    try:
        with pytest.raises((Unavailable, ConfigError), match=f"{sandbox}.*in use"):
            for _ in range(100):
                second.wait_ready(30)
                time.sleep(0.1)
    finally:
        second.stop()


def test_several_programs_are_told_apart_and_one_stands_alone(rooms: Any, capsys: Any) -> None:
    messages = ["x = 1", "y = '''a\\nb'''\n\n"]
    assert main(["decode", *messages, "--decoder-url", rooms.decoder.url]) == 0
    said = capsys.readouterr().out
    headed = [line for line in said.splitlines() if line.startswith("# ")]
    assert headed == [f"# {number}: {message!r}" for number, message in enumerate(messages, 1)]
    assert len(ast.parse(said).body) == 2
    assert main(["decode", messages[0], "--decoder-url", rooms.decoder.url]) == 0
    assert capsys.readouterr().out == "x = 1\n"


def test_judge_says_how_a_verdict_came_about_and_refuses_a_weaker_one(
    rooms: Any, capsys: Any, tmp_path: Any
) -> None:
    program = tmp_path / "p.py"
    program.write_text("def f(n): return n * 2", encoding="utf-8")
    argv = ["judge", str(program), "--test", LOOP, "--sandbox-url", rooms.sandbox.url]
    assert main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assurance"] == "rpc"
    assert main([*argv, "--min-assurance", "value"]) == 2
    assert "value" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*argv, "--min-assurance", "none"])


# A shell that starts the tests behind itself has told them to ignore Ctrl-C; a user's has not.
SERVE = """
import signal
from trainer.supervise import serve_page
signal.signal(signal.SIGINT, signal.default_int_handler)
raise SystemExit(serve_page("playground", dict.fromkeys(("decoder", "sandbox"), "http://127.0.0.1:9")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_page_that_ends_leaves_no_folder_no_process_and_no_traceback(
    number: signal.Signals,
) -> None:
    """Ended by their parent's death, services get that signal once for each of the parent's threads."""
    port, texts = free_port(), []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # the jail's programs have other uids
        environment = {
            **os.environ, "TMPDIR": str(folder), "PLAYGROUND_PORT": str(port), "DECODER_ENGINE": "echo",
            "SANDBOX_JAIL": "process", "PLAYGROUND_RUNS": str(folder / "runs"),
        }  # fmt: skip
        said = stack.enter_context((folder / "said").open("w+"))
        page = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stderr=said)
        stack.callback(page.wait)
        stack.callback(page.terminate)
        end, shown = time.monotonic() + 60, ""
        while shown.count(">ready<") < 2:
            assert time.monotonic() < end and page.poll() is None, shown[-3000:]
            time.sleep(0.2)
            with contextlib.suppress(httpx.HTTPError):
                shown = httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=10).text
        text = (folder / "said").read_text()
        logs = [stack.enter_context(Path(log).open()) for log in re.findall(r"its log is (\S+)", text)]
        page.send_signal(number)
        assert page.wait(30) == 0
        texts = [log.read() for log in logs]
        assert [found.name for found in folder.iterdir()] == ["said"]
    assert len(texts) == 2
    assert all("draining" in one and "Traceback" not in one for one in texts), texts
    for url in re.findall(r"starting one at (\S+);", text):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url, trust_env=False)
