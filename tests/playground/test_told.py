"""What the pages tell: figures that agree, commands that work, what was asked for and is not there."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from trainer.runs import Run

pytestmark = pytest.mark.slow

Serve = Callable[..., httpx.Client]
NAME = "trained"


def words(page: str) -> str:
    """A page's text without its markup, blanks joined."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_figures_at_the_top_stand_in_the_tables_too(serve: Serve, runs: Path) -> None:
    """The pass rate in the table of evaluations; the seconds per step as the sum of its rooms."""
    run = Run(runs / NAME)
    (run.folder / "metrics.jsonl").unlink()
    for step in range(1, 41):
        slow = 10.0 if step <= 20 else 1.0
        times = {"time/step_s": slow, "time/sample_s": slow / 2, "time/decode_s": slow / 4}
        run.append("metrics.jsonl", [{"step": step, **times}])
    shown = serve(runs).get(f"/runs/{NAME}").text
    held = run.read_json("summary.json")["heldout"]
    last = re.findall(r"<tr>(.*?)</tr>", shown.partition("Held-out evaluations")[2], re.DOTALL)[-1]
    row = words(last)
    assert "the one kept" in row and f"test {held['n']} {100 * held['pass_rate']:.1f} %" in row
    assert f"{held['tokens_per_message']:.1f}" in row
    assert "<dt>per step</dt><dd>1.00 s</dd>" in shown
    seconds = re.findall(r"(?:writes|decoder|updated) <b>([0-9.]+) s", shown)
    assert [float(one) for one in seconds] == [0.5, 0.25, 0.25]


def test_the_phrasebooks_numbers_follow_from_each_other(serve: Serve, runs: Path) -> None:
    entry = {"symbol": "sorted", "piece": "sorted(...)", "n": 7, "cases": 0}
    book = {"verdict": "v", "entries": [entry], "distinct_symbols": 3, "symbols": 0}
    Run(runs / NAME).write_json("controls.json", {"phrasebook": book})
    text = words(serve(runs).get(f"/runs/{NAME}/phrasebook").text)
    for told in ("symbols in use 3", "of them stand for a piece 1", "of these pass the check 0",
                  "1 of the 1 symbols that stand for a piece", "have no line"):  # fmt: skip
        assert told in text, told


@pytest.mark.parametrize("path", ["/", f"/runs/{NAME}/phrasebook"])
def test_a_printed_command_works_in_a_shell_without_the_environment(
    serve: Serve, runs: Path, path: str, monkeypatch: pytest.MonkeyPatch, repo: Path
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(repo)
    pages = [serve(runs).get(path).text]
    Run(runs / NAME).write_json(
        "controls.json", {"phrasebook": {}, "command": "psuedoptimal controls runs/x"}
    )
    pages.append(serve(runs).get(path).text)
    found = [
        html.unescape(one) for page in pages for one in re.findall(r"<code>([^<]*psuedoptimal [^<]*)", page)
    ]
    assert len(found) >= 2
    for command in found:
        done = subprocess.run(["sh", "-c", f"{command} --help"], capture_output=True, text=True)
        assert done.returncode == 0 and "usage:" in done.stdout, (command, done.stderr)


def test_compare_says_which_runs_it_took_by_itself_and_asks_where_none_is_ticked(
    serve: Serve, runs: Path
) -> None:
    page = serve(runs)
    assert "Nothing was chosen yet" in page.get("/compare").text
    ticked = page.get("/compare", params={"run": NAME, "asked": 1}).text
    assert "Nothing was chosen yet" not in ticked and "Senders" in ticked
    none = page.get("/compare", params={"asked": 1}).text
    assert "No run is ticked" in none and "Senders" not in none and " checked" not in none


def test_a_task_that_is_none_is_said_so(serve: Serve, runs: Path) -> None:
    page = serve(runs)
    for path in (f"/runs/{NAME}/evolution", f"/playground?run={NAME}"):
        reply = page.get(path, params={"run": NAME, "task": "no<b>pe"})
        told = re.search(r'role="alert">(.*?)</p>', reply.text)
        assert reply.status_code == 200 and told, path
        assert "no&lt;b&gt;pe" in told[1] and "hoose one from the list" in told[1]
        problem = page.get(path, params={"run": NAME, "task": "nope"}, headers={"Accept": "application/json"})
        assert problem.status_code == 404 and problem.json()["field"] == "task"
        assert 'role="alert"' not in page.get(path).text


@pytest.mark.parametrize("path", ["/compare?run=none", "/playground?run=none", "/playground?run=&task=none"])
def test_what_a_form_names_and_is_not_there_is_said_in_its_page(
    serve: Serve, tmp_path: Path, path: str
) -> None:
    page = serve(tmp_path)
    reply = page.get(path)
    assert reply.status_code == 200 and "none" in words(reply.text)
    assert 'role="alert"' in reply.text
    problem = page.get(path, headers={"Accept": "application/json"})
    assert problem.status_code == 404 and problem.json()["code"] == "not-found"
