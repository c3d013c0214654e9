"""A message's whole way through real services, and what is said where something is missing."""

from __future__ import annotations

import asyncio
import html
import json
import re
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import httpx
import pytest

from playground.folders import Folders
from playground.rooms import Rooms
from playground.settings import PlaygroundSettings
from playground.talk import Asked, Desk, statements
from shared.errors import InvalidRequest
from trainer.channels.text.controllers import controller_of
from trainer.channels.text.rewards import Judged, score
from trainer.config import ConfigError
from trainer.measure import ask

pytestmark = pytest.mark.slow

Serve = Callable[..., httpx.Client]
NAME = "trained"
MESSAGE = "solve total nums % 2 != ** 2"
FIGURES = {"reward/multiplier": 3.5, "reward/budget": 8.0}


class Field(HTMLParser):
    """What stands in the form's message field."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inside, self.value = False, ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "textarea" and ("name", "message") in attrs

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        self.value += data if self.inside else ""


@pytest.fixture
def page(serve: Serve, runs: Path, rooms: SimpleNamespace) -> httpx.Client:
    """The playground with its services and one trained student."""
    return serve(runs, decoder_url=rooms.decoder, sandbox_url=rooms.sandbox)


def said(reply: httpx.Response) -> str:
    """A page's text without its markup, blanks joined."""
    parts: list[str] = []

    class Text(HTMLParser):
        def handle_data(self, data: str) -> None:
            parts.append(data)

    Text().feed(reply.text)
    return " ".join(" ".join(parts).split())


def test_a_message_goes_the_whole_way(page: httpx.Client, rooms: SimpleNamespace) -> None:
    tests = "assert solve([1, 2, 3]) == 10\nassert solve([2]) == 4"
    reply = page.post("/playground", data={"message": MESSAGE, "tests": tests, "run": NAME, "by": "you"})
    text = said(reply)
    assert reply.status_code == 200
    prompt = httpx.post(f"{rooms.decoder}/v1/prompt", json={"messages": [MESSAGE]}, trust_env=False).json()
    before, after = prompt["prompts"][0].split(MESSAGE)
    assert html.escape(before) + f"<mark>{MESSAGE}</mark>" + html.escape(after) in reply.text
    body = {"messages": [MESSAGE], "max_new_tokens": 512, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    assert json.dumps(body, separators=(",", ":")) in html.unescape(reply.text)
    assert "def solve(nums): total = 0" in text
    assert "passed assert solve([1, 2, 3]) == 10" in text
    assert "failed assert solve([2]) == 4" in text and "expected 4, got 0" in text
    assert "bits" in text and f"{len(MESSAGE)} bytes" in text


def test_words_that_the_students_tokenizer_does_not_know_are_said_and_earn_nothing(
    page: httpx.Client, trained: Path
) -> None:
    task = ask.tasks_of(ask.config_of(trained))[0]
    long = "x" * 5000
    form = {"message": f"{long} sorted {long} naïve", "run": NAME, "task": task.task_id}
    text = said(page.post("/playground", data=form))
    assert f"Unknown to the student's tokenizer: {long[:60]}… , ï ." in text
    assert text.index("Unknown to") < text.rindex(long)  # a long message does not push it out of sight
    assert "No student of this run can send that" in text and "Reward None" in text
    known = said(page.post("/playground", data={**form, "message": MESSAGE}))
    assert "Unknown to" not in known and "Reward None" not in known
    assert "Unknown to" not in said(page.post("/playground", data={"message": long, "run": ""}))


def test_the_student_writes_a_message_and_is_paid_for_it(page: httpx.Client, trained: Path) -> None:
    config = ask.config_of(trained)
    task = ask.tasks_of(config)[0]
    wanted = ask.message_of(ask.student_of(trained, config), config, task)
    reply = page.post("/playground", data={"run": NAME, "task": task.task_id, "message": "", "by": "student"})
    text = said(reply)
    assert reply.status_code == 200, text
    assert Field(reply.text).value.strip("\n") == wanted.text
    words = ask.words_of(trained, config)
    assert f"tokens {words.count(wanted.text)} bits" in text
    assert all(html.escape(test, quote=True) in reply.text for test in task.tests)
    assert ("Reward" in text and "for passing" in text) or "for failing" in text


def test_a_message_keeps_every_character_and_hidden_ones_are_marked(page: httpx.Client) -> None:
    message = "f(n)\u200b <b>\n\tx & \u202e'\""
    reply = page.post("/playground", data={"message": message, "run": ""})
    assert Field(reply.text).value.removeprefix("\n") == message
    assert (
        "U+202E" in reply.text
        and "ZWSP" in reply.text
        and "<b>"
        not in reply.text.replace("<b>Decoder", "")
        .replace("<b>decoder</b>", "")
        .replace("<b>sandbox</b>", "")
    )


def test_without_services_the_message_stays_and_the_page_says_how_to_start_them(
    serve: Serve, runs: Path
) -> None:
    reply = serve(runs, deadline_s=1.0).post("/playground", data={"message": MESSAGE, "run": NAME})
    text = said(reply)
    assert reply.status_code == 200
    assert "psuedoptimal serve decoder" in text and "not reachable" in text
    assert Field(reply.text).value.strip("\n") == MESSAGE
    assert "tokens × log2" in text


@pytest.mark.parametrize(
    ("form", "status", "title", "words"),
    [
        ({"message": ""}, 422, "Message: write one, or ask the student", "the message is empty"),
        ({"message": "x y " * 800}, 422, "Message: send a shorter message", "over the model's context"),
        ({"message": "x" * 200_001}, 422, "Message: send a shorter one", "the limit is 200000"),
        (
            {"message": "x", "tests": "assert f(1 ==\n2"},
            422,
            "Tests: write one Python statement a line",
            "tests, line 1: '(' was never closed",
        ),
        (
            {"message": "x", "tests": "assert 1 == 1"},
            422,
            "Tests: let at least one test call",
            "no test calls",
        ),
        ({"message": "x", "tests": "assert f(1)\n" * 1001}, 422, "Tests: send fewer", "1001 statements"),
        (
            {"message": "x", "tests": f"assert f('{'a' * 200_000}')"},
            422,
            "Tests: send fewer",
            "the tests have 200012 characters, the limit is 200000",
        ),
        ({"message": "x", "task": "no/such"}, 404, "Task: choose one from the list", "has no such task"),
        ({"message": "", "by": "student"}, 422, "Task: choose one from the list", "needs a task"),
        ({"message": "x", "run": "none"}, 404, "No such route or resource", "no run 'none'"),
    ],
)
def test_what_is_wrong_is_a_part_of_the_page_and_a_status_to_programs(
    page: httpx.Client, form: dict[str, str], status: int, title: str, words: str
) -> None:
    """A browser writes an error to its console for every status over 399."""
    reply = page.post("/playground", data={"run": "", **form})
    assert reply.status_code == 200
    heading = re.search(r'<li class="problem" role="alert"><h2>(.*?)</h2>', reply.text)
    assert heading and html.unescape(heading[1]).startswith(title)
    assert words in said(reply)
    problem = page.post("/playground", data={"run": "", **form}, headers={"Accept": "application/json"})
    assert problem.status_code == status and words in problem.json()["detail"]


def test_what_is_no_form_is_refused(page: httpx.Client) -> None:
    accept = {"Accept": "application/json"}
    assert page.post("/playground", json={"message": "x"}, headers=accept).status_code == 422
    form = {"Content-Type": "application/x-www-form-urlencoded", **accept}
    assert page.post("/playground", content=b"message=%ff", headers=form).status_code == 422
    assert page.post("/playground", content="message=é".encode(), headers=form).status_code == 422
    assert page.post("/playground", content=b"a=1&" * 50, headers=form).status_code == 422
    assert page.post("/playground", content=b"message=" + b"x" * 3_000_000, headers=form).status_code == 413


def test_the_form_remembers_what_it_is_asked_for_and_sends_nothing(page: httpx.Client) -> None:
    reply = page.get("/playground", params={"run": NAME, "message": MESSAGE})
    assert Field(reply.text).value.strip("\n") == MESSAGE
    assert f'<option value="{NAME}" selected>' in reply.text
    assert "exactly what the decoder is sent" in said(reply)


def test_statements_are_taken_apart_as_the_judge_wants_them() -> None:
    assert statements("assert f(1) == 2\n\nassert f([\n 1,\n]) == 3  # why\n") == [
        "assert f(1) == 2",
        "assert f([\n 1,\n]) == 3",
    ]
    assert statements("") == []
    for wrong in ("assert (", "a\x00b", "(" * 5000):
        with pytest.raises(InvalidRequest, match="tests"):
            statements(wrong)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "typed",
    [
        ["@cache\n@wraps(f)\ndef g(x):\n    return x", "assert f(2) == g(2)"],
        ["@(  # why\n    cache\n)\nclass A:\n    x = 1"],
        ["x = 'é\u2028\x0b'", "assert f('ü') == [\n'ä', # ö\n]", "@a\nasync def g(): pass"],
    ],
)
def test_a_statement_is_judged_as_it_was_typed(typed: list[str], end: str) -> None:
    wanted = [one.replace("\n", end) for one in typed]
    assert statements(f"  # all of them{end}" + f"  # next{end}".join(wanted)) == wanted
    assert statements(";".join(["f(1)", "é", "f(2)"])) == ["f(1)", "é", "f(2)"]


def test_many_long_statements_are_taken_apart_at_once() -> None:
    """To split the text again for each took 25 s on a slow machine."""
    typed = [f"assert f({number}) == '{'x' * 350}'" for number in range(300)]
    start = time.process_time()
    assert statements("\n".join(typed)) == typed
    assert time.process_time() - start < 1


def test_the_event_loop_does_not_take_statements_apart(tmp_path: Path) -> None:
    called: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        """Of this thread only."""
        called.append(frame.f_code.co_name if event == "call" else "")

    async def ask_once() -> Any:
        settings = PlaygroundSettings(runs=tmp_path)
        desk = Desk(settings, Folders(tmp_path), Rooms(settings))
        sys.setprofile(note)
        try:
            return await desk.answer(Asked(message="x", tests="assert ("))
        finally:
            sys.setprofile(None)

    problem = asyncio.run(ask_once()).problem
    assert problem.field == "tests" and "answer" in called and "statements" not in called


# --- trainer.measure.ask -----------------------------------------------------------------------------


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("kind", ["ratio", "log_ratio", "budget", "lagrangian", "relative"])
def test_what_a_message_earns_is_what_training_pays(trained: Path, kind: Any, passed: bool) -> None:
    config = ask.config_of(trained).model_copy(update={"reward": kind})
    found = ask.earned(config, passed=passed, tokens=10, reference_tokens=40, figures=FIGURES)
    level = FIGURES.get(f"reward/{controller.name}") if (controller := controller_of(config)) else 0.0
    assert found.reward == pytest.approx(float(score(config, Judged([passed], [10], [40]), level)[0]))
    assert found.how


def test_by_hand_the_rewards_are_these(trained: Path) -> None:
    """ratio: 10 x 40 / 10; log_ratio: 1 + 0.5 x log4(4); lagrangian: 3.5 - 10 / 40; relative: alone, 3.5;
    budget: 2 of 8 tokens over, 1 - 2 / 8."""
    kinds = {"ratio": 40.0, "log_ratio": 1.5, "lagrangian": 3.25, "relative": 3.5, "budget": 0.75}
    for kind, wanted in kinds.items():
        config = ask.config_of(trained).model_copy(update={"reward": kind})
        found = ask.earned(config, passed=True, tokens=10, reference_tokens=40, figures=FIGURES)
        assert found.reward == pytest.approx(wanted), kind


def test_no_task_is_fetched_from_a_hub(trained: Path) -> None:
    config = ask.config_of(trained).model_copy(update={"dataset": "mbpp"})
    with pytest.raises(ConfigError, match="hub"):
        ask.tasks_of(config)


def test_pieces_of_a_message_make_up_the_message(trained: Path) -> None:
    words = ask.words_of(trained, ask.config_of(trained))
    assert "".join(words.pieces(MESSAGE)).replace(" ", "") == MESSAGE.replace(" ", "")
    assert len(words.pieces(MESSAGE)) == words.count(MESSAGE)
    assert words.pieces("total nums")[0] == "total"
    assert words.bits(1) == pytest.approx(9.19, abs=0.01)  # log2 of 586
