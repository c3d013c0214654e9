"""The page in a real Chromium: clicks, keys, a narrow screen, no script, nothing from elsewhere.

PSUEDOPTIMAL_SCREENSHOTS names a folder for pictures of the pages. Without Chromium these tests are skipped;
PSUEDOPTIMAL_CHROMIUM names another than the system's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.runs import Run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

Visit = Callable[..., Any]
pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAME = "trained"
MESSAGE = "solve total nums % 2 != ** 2"
HOSTILE = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>\u202e\u200b"
PAGES = {
    "runs": "/",
    "watch": f"/runs/{NAME}",
    "evolution": f"/runs/{NAME}/evolution",
    "phrasebook": f"/runs/{NAME}/phrasebook",
    "playground": "/playground",
    "compare": "/compare",
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_its_screen_and_asks_nobody_else(visit: Visit, width: int, dark: bool) -> None:
    browser = visit(width=width, dark=dark)
    for name, path in PAGES.items():
        page = browser.go(path)
        page.wait_for_load_state("networkidle")
        assert page.locator("h1").count() == 1
        assert page.evaluate("window.shift") < 0.01, name
        browser.shot(f"{name}-{width}-{'dark' if dark else 'light'}")
        browser.check()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(13, 18, 23)") == dark


def test_a_message_is_sent_and_answered_without_leaving_the_page(visit: Visit) -> None:
    browser = visit()
    page = browser.go("/playground")
    page.get_by_label("Message").fill(MESSAGE)
    page.get_by_label("Tests").fill("assert solve([1, 2, 3]) == 10\nassert solve([2]) == 4")
    page.evaluate("window.kept = true")
    page.get_by_role("button", name="Send").click()
    page.locator(".tests .badge").first.wait_for()
    assert page.locator(".prompt mark").inner_text() == MESSAGE
    assert "total += num ** 2" in page.locator(".path pre").nth(2).inner_text()
    assert page.locator(".tests .badge").all_inner_texts() == ["passed", "failed"]
    assert page.evaluate("window.kept") and page.get_by_label("Message").input_value() == MESSAGE
    browser.shot("answer-1280-light")
    browser.check()


def test_the_student_writes_about_a_chosen_task(visit: Visit) -> None:
    browser = visit(width=390, dark=True)
    page = browser.go("/playground")
    task = page.get_by_label("Task").locator("option").nth(1).get_attribute("value")
    page.get_by_label("Task").select_option(task)
    page.get_by_role("button", name="Have the student").wait_for()
    assert page.get_by_label("Student").input_value() == NAME
    page.get_by_role("button", name="Have the student").click()
    page.locator(".path .number").wait_for()
    message = page.get_by_label("Message").input_value()
    assert message and page.locator(".path .said code").first.inner_text()
    assert page.locator(".tests li").count() == 4
    assert page.evaluate("window.shift") < 0.01
    browser.shot("student-390-dark")
    browser.check()


def test_everything_can_be_reached_and_sent_by_keyboard(visit: Visit) -> None:
    browser = visit()
    page = browser.go("/playground")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    met = []
    for _ in range(20):
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", met[-1]
        if met[-1] == "message":
            break
    assert met[:2] == ["run", "task"] and met[-1] == "message"
    page.keyboard.type(MESSAGE)
    page.keyboard.press("Control+Enter")
    page.locator(".prompt mark").wait_for()
    browser.check()


def test_a_running_runs_page_follows_it_can_be_paused_and_hostile_text_stays_text(
    visit: Visit, runs: Path
) -> None:
    run = Run(runs / NAME)
    summary = run.read_json("summary.json")
    (run.folder / "summary.json").unlink()
    run.append("metrics.jsonl", [{"step": 7, "pass_rate": 0.5, "verdict/passed": 1.0}])
    browser = visit()
    page = browser.go(f"/runs/{NAME}")
    page.get_by_text("live", exact=True).wait_for()
    episode = {
        "step": 8,
        "task_id": "t",
        "message": HOSTILE,
        "tokens": 2,
        "program": HOSTILE,
        "outcome": "failed",
    }
    run.append("episodes.jsonl", [episode])
    said = page.locator(".messages .said").filter(has_text="<script>window.hit=1</script>")
    said.wait_for()
    assert "U+202E" in said.inner_text() and "\u202e" not in said.inner_text()
    assert page.locator(".messages img, .messages script").count() == 0
    page.get_by_role("button", name="Pause").click()
    run.append("metrics.jsonl", [{"step": 9, "pass_rate": 0.25, "verdict/passed": 1.0}])
    page.wait_for_timeout(1000)
    step = page.locator(".tiles dd").first
    assert step.inner_text() == "7"
    page.get_by_role("button", name="Go on").click()
    sync_api.expect(step).to_have_text("9")
    browser.shot("live-1280-light")
    run.write_json("summary.json", summary)
    page.get_by_text("the run has come to its end").wait_for()
    sync_api.expect(page.locator(".state .pill")).to_have_text("finished")
    browser.check()


def test_a_task_is_chosen_and_the_next_one_followed(visit: Visit) -> None:
    browser = visit()
    page = browser.go(f"/runs/{NAME}/evolution")
    tasks = page.locator("#task option").evaluate_all("all => all.map(one => one.value)")
    page.get_by_label("Task").select_option(tasks[2])
    page.wait_for_url("**task=**")
    sync_api.expect(page.get_by_label("Task")).to_have_value(tasks[2])
    page.get_by_role("link", name="Next").click()
    sync_api.expect(page.get_by_label("Task")).to_have_value(tasks[3])
    assert page.locator(".stages > li").count() >= 2
    browser.check()


def test_without_a_script_every_page_is_read_and_a_message_sent(visit: Visit) -> None:
    browser = visit(script=False)
    for name, path in PAGES.items():
        page = browser.go(path)
        assert page.locator("h1").inner_text(), name
    assert page.locator("svg.plot").count() == 1
    page = browser.go("/playground")
    page.get_by_label("Task").select_option(index=1)
    page.get_by_role("button", name="Show this task").click()
    page.get_by_text("reference code").wait_for()
    page.get_by_label("Message").fill(MESSAGE)
    page.get_by_role("button", name="Send").click()
    page.locator(".tests .badge").first.wait_for()
    assert page.locator(".tests li").count() == 4
    browser.shot("no-script-1280-light")
    assert not browser.errors


def test_the_browser_itself_refuses_what_the_policy_forbids(visit: Visit) -> None:
    """Should anything ever get past the escaping: an inline handler, script or style does nothing."""
    browser = visit()
    page = browser.go("/")
    page.evaluate(
        """() => {
          const forbidden = "<img src=/nope onerror='window.hit=1'><b style='color:red'>x</b>";
          document.body.insertAdjacentHTML("beforeend", forbidden);
          const script = document.createElement("script");
          script.textContent = "window.hit = 1";
          document.body.append(script);
        }"""
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit === undefined")
    assert any("Content Security Policy" in error for error in browser.errors)
