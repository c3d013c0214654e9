"""The pages of a run that was really trained, as a browser gets them, and their news while a run goes on."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.watch import latest_messages
from trainer.channels.program.environment import Rollout
from trainer.channels.program.record import episode_rows, step_row
from trainer.channels.program.reward_function import Batch
from trainer.channels.text.reward_function import Episode
from trainer.measure.compare import COLUMNS
from trainer.runs import Run

pytestmark = pytest.mark.slow

Serve = Callable[..., httpx.Client]
HOSTILE = "</code><script>window.hit=1</script><img src=x onerror=window.hit=1>\u202e\u2066\u200b"
NAME = "trained"


class Tags(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.said).split())


def hostile_episode(step: int) -> dict[str, Any]:
    made = Episode(
        task_id=HOSTILE, family="a+b", message=HOSTILE, tokens=3, reference_tokens=9, program=HOSTILE,
        outcome="failed", reward=-1.0,
    )  # fmt: skip
    return {"step": step, **made._asdict()}


def test_an_anchor_is_none_of_the_students_latest_messages() -> None:
    own = [{"step": 1, "task_id": "a", "message": "a1"}, {"step": 2, "task_id": "a", "message": "a2"}]
    other = [{"step": 2, "task_id": "b", "message": "b2", "anchor": False}]
    anchors = [{"step": 2, "task_id": task, "message": "whole", "anchor": True} for task in ("a", "b")]
    found = latest_messages([*own, anchors[0], *other, anchors[1]])
    assert [row["message"] for row in found] == ["b2", "a2"]


def test_a_stopped_run_says_how_to_go_on(serve: Serve, runs: Path) -> None:
    (runs / NAME / "summary.json").unlink()
    for file in (runs / NAME).rglob("*"):
        os.utime(file, (1, 1))
    os.utime(runs / NAME, (1, 1))
    said = " ".join(Tags(serve(runs).get(f"/runs/{NAME}").text).text.split())
    assert f"psuedoptimal train text --resume {runs / NAME}" in said


def test_every_page_of_a_trained_run_is_whole_without_a_script(serve: Serve, runs: Path) -> None:
    page = serve(runs)
    said = {
        path: Tags(page.get(path).text)
        for path in ("/", f"/runs/{NAME}", f"/runs/{NAME}/evolution", "/compare")
    }
    assert f"{NAME}finished · text" in said["/"].text
    watch = said[f"/runs/{NAME}"]
    drawn = [attrs["aria-label"] for tag, attrs in watch.found if tag == "svg"]
    assert drawn == [
        "Pass rate", "Tokens per message", "Reward", "Compression", "Verdicts by step",
        "Seconds of a step by room",
    ]  # fmt: skip
    for words in ("step of 4", "Latest messages", "validation", "passed"):
        assert words in watch.text, words
    evolution = said[f"/runs/{NAME}/evolution"]
    assert [f"step {step}" in evolution.text for step in (0, 2, 4)] == [True] * 3
    assert "Write a function" in evolution.text and "def " in evolution.text
    compared = said["/compare"]
    assert all(name in compared.text for name in COLUMNS) and "student, shuffled" in compared.text
    assert any(attrs.get("aria-label", "").startswith("Held-out pass rate") for _, attrs in compared.found)


def test_a_task_can_be_chosen_and_every_step_be_shown(serve: Serve, runs: Path) -> None:
    page = serve(runs)
    first = Tags(page.get(f"/runs/{NAME}/evolution").text)
    tasks = [attrs["value"] for tag, attrs in first.found if tag == "option"]
    assert len(tasks) >= 6
    other = Tags(page.get(f"/runs/{NAME}/evolution", params={"task": tasks[-1], "every": 1}).text)
    chosen = [attrs["value"] for tag, attrs in other.found if tag == "option" and "selected" in attrs]
    assert chosen == [tasks[-1]]
    links = [attrs.get("rel") for tag, attrs in other.found if tag == "a" and attrs.get("rel")]
    assert links == ["prev"]


def test_what_a_model_wrote_stays_text_on_every_page(serve: Serve, runs: Path) -> None:
    run = Run(runs / NAME)
    run.append("episodes.jsonl", [hostile_episode(7)])
    record = {"family": "", "refused": "", "assurance": "value"}
    for step in (0, 2):
        row = hostile_episode(step) | record
        run.append(
            "heldout.jsonl", [{key: row[key] for key in row if key not in ("reward", "reference_tokens")}]
        )
    entry = {
        "symbol": HOSTILE,
        "piece": HOSTILE,
        "n": 3,
        "cases": 0,
        "examples": [{"message": HOSTILE, "program": HOSTILE}],
    }
    book = {"verdict": HOSTILE, "entries": [entry]}
    controls = {"phrasebook": book, "command": HOSTILE, "controls": {"rows": [{"name": HOSTILE}]}}
    run.write_json("controls.json", controls)
    page = serve(runs)
    for path, params in (
        (f"/runs/{NAME}", {}),
        (f"/runs/{NAME}/evolution", {"task": HOSTILE}),
        (f"/runs/{NAME}/phrasebook", {}),
        (f"/runs/{NAME}/phrasebook", {"search": HOSTILE}),
        ("/", {"search": HOSTILE}),
        ("/playground", {"message": HOSTILE, "run": "", "task": HOSTILE}),
    ):
        reply = page.get(path, params=params)
        assert reply.status_code == 200, reply.text
        shown = Tags(reply.text)
        assert "window.hit=1" in shown.text + reply.text, path
        scripts = [attrs for tag, attrs in shown.found if tag == "script"]
        assert scripts == [{"src": "/assets/page.js", "defer": None}]
        assert {attrs.get("src") for tag, attrs in shown.found if tag == "img"} == {"/assets/icon.svg"}
        assert not [attrs for _, attrs in shown.found if any(name.startswith("on") for name in attrs)]
        if path != "/playground":  # there it stands in the field that it was typed into
            fields = "".join(
                attrs.get("value") or "" for tag, attrs in shown.found if tag in ("input", "option")
            )
            assert not {"\u202e", "\u2066", "\u200b"} & (set(reply.text) - set(fields))


def test_a_run_of_the_program_channel_is_shown_by_its_own_figures(serve: Serve, tmp_path: Path) -> None:
    run = Run(tmp_path / "coder")
    run.folder.mkdir()
    run.write_text("config.yaml", "length_penalty: 0.1\nmax_steps: 20\n")
    won = Rollout("output = range_func_up(1, 9)\n", 1, "solved", 19, 1.0, 98.1)
    lost = Rollout("output = 7\n", 1, "wrong", 8, 0.0, 0.0)
    for step in range(1, 20):
        batch = Batch([0, 1], [won, lost], 0.1, 1, [[0.5], [-0.5]])
        run.append("metrics.jsonl", [{"step": step, **step_row([batch], [tuple(range(1, 9)), (3, 1)])}])
        run.append("episodes.jsonl", episode_rows(step, [batch]))
        run.append("heldout.jsonl", [{"step": step, "split": "validation", "place": 4, **won._asdict()}])
    page = serve(tmp_path)
    shown = Tags(page.get("/runs/coder").text)
    drawn = [attrs["aria-label"] for tag, attrs in shown.found if tag == "svg"]
    assert drawn == ["Solved", "Bits per program", "Reward", "Verdicts by step"]
    for words in ("program channel", "solved 50 %", "wrong 50 %", "range_func_up(1, 9)", "19 bits"):
        assert words in shown.text, words
    evolution = Tags(page.get("/runs/coder/evolution").text)
    assert "validation/4" in evolution.text and "19 bits" in evolution.text


def test_a_run_of_the_latent_channel_is_shown_by_its_losses(serve: Serve, tmp_path: Path) -> None:
    run = Run(tmp_path / "vectors")
    run.folder.mkdir()
    run.write_text("config.yaml", "kl_temperature: 4.0\nmax_steps: 20\n")
    for step in range(1, 20):
        figures = {"loss": 3 / step, "ce": 2 / step, "kl": 1 / step, "align": 0.5 / step}
        run.append("metrics.jsonl", [{"step": step, **figures, "time/step_s": 1.0, "time/teacher_s": 0.25}])
    run.append("evaluations.jsonl", [{"step": 10, "split": "validation", "loss": 0.75, "ce": 0.5}])
    blind = {"student": 0.875, "none": 0.0, "mismatched": 0.125}
    run.write_json("summary.json", {"channel": "latent", "heldout": {"n": 64, "blind": blind}})
    page = serve(tmp_path)
    shown = Tags(page.get("/runs/vectors").text)
    drawn = [attrs["aria-label"] for tag, attrs in shown.found if tag == "svg"]
    assert drawn == ["Loss", "Cross-entropy", "KL", "Alignment", "Seconds of a step by room"]
    for words in ("latent channel", "blind: student", "87.5 %", "0.750", "teacher 0.25 s"):
        assert words in shown.text, words
    assert "87.5 %" in Tags(page.get("/").text).text
    assert "Only a student of the text channel" in page.get("/runs/vectors/phrasebook").text


@pytest.mark.parametrize("path", ["/runs/none", "/runs/none/evolution", "/runs/none/live", "/x"])
def test_what_is_not_there_is_said_as_a_page_or_as_a_problem(serve: Serve, tmp_path: Path, path: str) -> None:
    page = serve(tmp_path)
    reply = page.get(path)
    assert reply.status_code == 404 and "<h1>No such route or resource</h1>" in reply.text
    problem = page.get(path, headers={"Accept": "application/json"})
    assert problem.status_code == 404 and problem.json()["code"] == "not-found"


def test_an_address_that_is_out_of_bounds_is_said_so(serve: Serve, tmp_path: Path) -> None:
    page = serve(tmp_path)
    reply = page.get("/", params={"page": "<b>0"})
    assert reply.status_code == 422 and "&lt;b&gt;0" in reply.text and "<b>0" not in reply.text
    problem = page.get("/", params={"page": 0}, headers={"Accept": "application/json"})
    assert problem.status_code == 422 and problem.json()["field"] == "page"


def test_an_empty_folder_and_absent_services_say_what_to_do(serve: Serve, tmp_path: Path) -> None:
    page = serve(tmp_path / "not-yet")
    start = Tags(page.get("/").text).text
    assert "psuedoptimal demo" in start
    assert "psuedoptimal serve decoder --port 9" in start and "psuedoptimal serve sandbox --port 9" in start
    assert "psuedoptimal demo" in Tags(page.get("/compare").text).text
    assert page.get("/readyz").status_code == 200


def test_the_list_is_searched_and_cut_into_pages(serve: Serve, tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / f"run-{number:03}").mkdir()
        (tmp_path / f"run-{number:03}" / "config.yaml").write_text("target_pass_rate: 0.9\n")
    page = serve(tmp_path)
    first, last = page.get("/").text, page.get("/", params={"page": 3}).text
    assert (first.count('<th scope="row">'), last.count('<th scope="row">')) == (50, 20)
    assert "page 1 of 3" in first and 'rel="next"' in first and 'rel="next"' not in last
    assert page.get("/", params={"page": 99}).text == last
    found = page.get("/", params={"search": "RUN-00"}).text
    assert found.count('<th scope="row">') == 10


# --- live --------------------------------------------------------------------------------------------


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def test_a_running_runs_news_come_as_it_writes_and_end_with_it(serve: Serve, runs: Path) -> None:
    run, page = Run(runs / NAME), serve(runs)
    summary = run.read_json("summary.json")
    (run.folder / "summary.json").unlink()
    run.append("metrics.jsonl", [{"step": 7, "pass_rate": 0.5, "verdict/passed": 1.0}])
    with page.stream("GET", f"/runs/{NAME}/live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        news = events(stream.iter_lines())
        name, parts = next(news)
        assert name == "news" and set(parts) == {"state", "tiles", "charts", "looks", "messages"}
        assert "running" in parts["state"] and HOSTILE not in parts["messages"]
        run.append("episodes.jsonl", [hostile_episode(8)])
        name, parts = next(news)
        assert name == "news" and "window.hit=1" in parts["messages"] and "<script" not in parts["messages"]
        run.write_json("summary.json", summary)
        assert [name for name, _ in news] == ["news", "end"]


def test_more_pages_than_allowed_are_told_to_come_back(serve: Serve, runs: Path) -> None:
    (runs / NAME / "summary.json").unlink()
    Run(runs / NAME).append("metrics.jsonl", [{"step": 7}])
    page = serve(runs, watchers=1)
    with page.stream("GET", f"/runs/{NAME}/live") as stream:
        lines = stream.iter_lines()  # kept: the stream ends with it
        assert next(lines) == "event: news"
        refused = page.get(f"/runs/{NAME}/live", headers={"Accept": "text/event-stream"})
        assert refused.status_code == 429 and refused.headers["retry-after"]
    end = time.monotonic() + 10
    while (code := head(page, f"/runs/{NAME}/live")) == 429:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert code == 200


def head(page: httpx.Client, path: str) -> int:
    with page.stream("GET", path) as reply:
        return reply.status_code


def test_watching_pages_do_not_hold_a_stop_up(live: Callable[[Any], str], runs: Path) -> None:
    """A server that is told to stop ends its streams itself; it would wait 30 s for them otherwise."""
    from playground.app import create_app
    from playground.settings import PlaygroundSettings

    (runs / NAME / "summary.json").unlink()
    Run(runs / NAME).append("metrics.jsonl", [{"step": 7}])
    absent = "http://127.0.0.1:9"
    app = create_app(PlaygroundSettings(runs=runs, decoder_url=absent, sandbox_url=absent, refresh_s=0.2))
    url = live(app)
    came = threading.Event()

    def read() -> None:
        with httpx.stream("GET", f"{url}/runs/{NAME}/live", trust_env=False, timeout=60) as stream:
            for _ in stream.iter_lines():
                came.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert came.wait(20)
    app.state.traffic.draining = True
    thread.join(10)
    assert not thread.is_alive()
    end = time.monotonic() + 10
    while app.state.traffic.in_flight:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_long_runs_page_is_fast(serve: Serve, runs: Path) -> None:
    """100,000 steps of what the trainer writes: some 50 MB. In seconds of CPU, for busy machines."""
    run = Run(runs / NAME)
    row = next(run.rows("metrics.jsonl"))
    row.pop("pass_rate_by_family")
    (run.folder / "metrics.jsonl").unlink()
    run.append("metrics.jsonl", [row | {"step": step} for step in range(1, 100_001)])
    page = serve(runs)
    start = time.process_time()
    shown = page.get(f"/runs/{NAME}").text
    seconds = time.process_time() - start
    assert "100000" in shown and "averaged in groups" in shown
    assert seconds < 1.5, seconds
    assert len(shown) < 300_000
