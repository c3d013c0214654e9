"""`serve`, `decode` and `judge`: what a person who asks one service sees."""

from __future__ import annotations

import ast
import json
import time
from typing import Any

import pytest

from shared.ports import free_port
from trainer.cli import main

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
