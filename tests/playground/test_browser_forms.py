"""The playground's forms in a real Chromium: what is refused, kept, gone back to, and said of a service.

A browser's console stays empty whatever a form is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.supervise import Service

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

Visit = Callable[..., Any]
pytestmark = [pytest.mark.browser, pytest.mark.slow]

NAME = "trained"
MESSAGE = "solve total nums % 2 != ** 2"


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
@pytest.mark.parametrize("width", [390, 360, 320])
def test_a_refused_form_leaves_the_console_empty_and_fits(visit: Visit, width: int, script: bool) -> None:
    browser = visit(width=width, script=script)
    page = browser.go("/playground")
    for message, tests, title in (
        ("", "", "Message: write one"),
        ("abc", "assert f(1 ==", "Tests: write one Python statement a line"),
        ("abc", "assert 1 == 1", "Tests: let at least one test call"),
        ("x y " * 1000, "", "Message: send a shorter message"),
    ):
        page.get_by_label("Message").fill(message)
        page.get_by_label("Tests").fill(tests)
        page.get_by_role("button", name="Send").click()
        sync_api.expect(page.locator(".path .problem h2")).to_contain_text(title)
        assert page.get_by_label("Message").input_value() == message
        assert browser.fits(), title
    browser.shot(f"refused-{width}-{'light' if script else 'no-script'}")
    assert not browser.errors


def test_what_is_not_there_leaves_the_console_empty(visit: Visit) -> None:
    browser = visit(width=320, decoder_url="http://127.0.0.1:9", deadline_s=1.0)
    for path in ("/playground?run=none", f"/playground?run={NAME}&task=none", "/compare?run=none"):
        page = browser.go(path)
        assert page.locator("[role=alert]").inner_text(), path
        browser.check()
    page = browser.go("/playground")
    page.get_by_label("Task").evaluate("one => one.add(new Option('gone', 'gone', true, true))")
    page.get_by_label("Message").fill(MESSAGE)
    page.get_by_role("button", name="Send").click()
    sync_api.expect(page.locator(".path .problem h2")).to_contain_text("Task: choose one from the list")
    page = browser.go("/playground")
    page.get_by_label("Message").fill(MESSAGE)
    page.get_by_role("button", name="Send").click()
    sync_api.expect(page.locator(".path .problem")).to_contain_text("The decoder is not there")
    browser.check()


def test_a_wrong_token_leaves_the_console_empty(visit: Visit) -> None:
    browser = visit(token="correct-horse")
    page = browser.go("/")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Go in").click()
    page.get_by_text("That is not the token").wait_for()
    page.get_by_label("Token").fill("correct-horse")
    page.get_by_role("button", name="Go in").click()
    page.get_by_role("heading", name="Runs").wait_for()
    browser.check()


def late(route: Any) -> None:
    """Let a page's script come when its reader has long seen the page."""
    time.sleep(0.3)
    route.continue_()


def scripted(page: Any) -> None:
    """Wait until a new page's script has run: it brings back what was typed, and then says this."""
    page.get_by_text("Ctrl + Enter sends too").wait_for()


def test_what_was_typed_outlives_the_choice_of_a_task(visit: Visit) -> None:
    browser = visit()
    page = browser.go("/playground")
    page.route("**/page.js*", late)
    # As a paste: typed, this many lines take Chromium half a minute.
    pasted = "(box, text) => { box.value = text; box.dispatchEvent(new Event('input', {bubbles: true})) }"
    page.get_by_label("Message").evaluate(pasted, f"{MESSAGE}\n" * 2000)
    page.get_by_label("Tests").fill("assert solve([2]) == 4\n")
    page.get_by_label("Task").select_option(index=2)
    page.get_by_role("button", name="Have the student").wait_for()
    scripted(page)
    assert page.get_by_label("Message").input_value() == f"{MESSAGE}\n" * 2000
    page.get_by_text("Yours are kept").wait_for()
    assert page.evaluate("window.shift") == 0
    page.get_by_label("Task").select_option("")
    page.get_by_role("button", name="Have the student").wait_for(state="detached")
    scripted(page)
    assert page.get_by_label("Tests").input_value() == "assert solve([2]) == 4\n"
    # What the student wrote is about one task only.
    page.get_by_label("Message").fill("")
    page.get_by_label("Task").select_option(index=1)
    page.get_by_role("button", name="Have the student").wait_for()
    scripted(page)
    page.get_by_role("button", name="Have the student").click()
    page.locator(".path .number").wait_for()
    assert page.get_by_label("Message").input_value()
    page.get_by_label("Task").select_option(index=2)
    page.wait_for_function("document.querySelectorAll('.path .waiting').length === 5")
    scripted(page)
    assert page.get_by_label("Message").input_value() == ""
    browser.check()


@pytest.mark.parametrize("where", ["/playground", f"/runs/{NAME}/evolution"])
def test_arrow_keys_go_through_the_choices_and_enter_takes_one(visit: Visit, where: str) -> None:
    browser = visit()
    page = browser.go(where)
    options = page.locator("#task option").evaluate_all("all => all.map(one => one.value)")
    task = page.get_by_label("Task")
    task.focus()
    first = options.index(task.input_value())
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    assert page.url == browser.url + where and task.input_value() == options[first + 2]
    page.keyboard.press("Enter")
    page.wait_for_url("**task=**")
    sync_api.expect(task).to_have_value(options[first + 2])
    sync_api.expect(task).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    sync_api.expect(task).to_have_value(options[first + 3])
    browser.check()


def test_without_a_script_what_was_typed_outlives_the_choice_of_a_task(visit: Visit) -> None:
    browser = visit(script=False)
    page = browser.go("/playground")
    page.get_by_label("Message").fill(f"{MESSAGE}\n" * 100)
    page.get_by_label("Tests").fill("assert solve([2]) == 4\n")
    for task in (1, 0):
        page.get_by_label("Task").select_option(index=task)
        page.get_by_role("button", name="Show this task").click()
        assert page.get_by_label("Message").input_value() == f"{MESSAGE}\n" * 100
    assert page.get_by_label("Tests").input_value() == "assert solve([2]) == 4\n"
    assert not browser.errors


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_a_page_that_is_gone_back_to_shows_what_its_selects_say(visit: Visit, script: bool) -> None:
    browser = visit(script=script)
    page = browser.go("/playground")
    page.get_by_label("Message").fill(MESSAGE)
    page.get_by_label("Task").select_option(index=1)
    if not script:
        page.get_by_role("button", name="Show this task").click()
    page.get_by_role("button", name="Have the student").wait_for()
    page.go_back()
    page.get_by_text("Choose a task").wait_for()
    sync_api.expect(page.get_by_label("Task")).to_have_value("")
    sync_api.expect(page.get_by_label("Message")).to_have_value(MESSAGE)
    page.go_forward()
    page.get_by_role("button", name="Have the student").wait_for()
    sync_api.expect(page.get_by_label("Task")).not_to_have_value("")
    browser.go(f"/runs/{NAME}/evolution")
    first, other = page.locator("#task option").evaluate_all("all => all.map(one => one.value)")[:2]
    page.get_by_label("Task").select_option(other)
    if not script:
        page.get_by_role("button", name="Show").click()
    page.wait_for_url("**task=**")
    page.go_back()
    page.wait_for_url("**/evolution")
    sync_api.expect(page.get_by_label("Task")).to_have_value(first)
    assert not browser.errors


@pytest.mark.parametrize("width", [390, 360, 320])
def test_the_tabs_of_a_run_stand_in_one_line(visit: Visit, width: int) -> None:
    page = visit(width=width).go(f"/runs/{NAME}")
    tops = page.locator(".tabs a").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert len(tops) == 4 and len(set(tops)) == 1


def test_comparing_no_run_asks_for_one(visit: Visit) -> None:
    browser = visit()
    page = browser.go("/compare")
    page.get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("No run is ticked").wait_for()
    assert not page.get_by_role("checkbox").is_checked()
    browser.check()


def test_a_service_that_is_starting_is_said_to_be_and_the_page_tells_when_it_is_ready(
    visit: Visit, tmp_path: Path
) -> None:
    decoder = Service("decoder", tmp_path / "decoder.log", {"DECODER_ENGINE": "echo"})
    browser = visit(width=320, decoder_url=decoder.url, decoder_log=decoder.log)
    page = browser.go("/")
    state = page.locator(".rooms li").first
    sync_api.expect(state.locator(".pill")).to_have_text("starting")
    assert str(decoder.log) in state.inner_text() and "Start it in a terminal" not in state.inner_text()
    browser.check()
    page.evaluate("window.kept = true")
    decoder.start()
    try:
        sync_api.expect(state.locator(".pill")).to_have_text("ready", timeout=60_000)
    finally:
        decoder.stop()
    assert page.evaluate("window.kept")
    browser.check()


def test_a_service_that_has_not_come_is_said_to_be_away(
    visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playground.rooms.START_S", 0.0)
    page = visit(decoder_url="http://127.0.0.1:9", decoder_log=tmp_path / "decoder.log").go("/")
    state = page.locator(".rooms li").first.inner_text()
    assert (
        "not there" in state
        and "starting" not in state
        and "serve decoder" in state
        and "decoder.log" in state
    )
