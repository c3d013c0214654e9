"""Whatever is printed is escaped and visible; no template takes a way around that."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from playground import render
from playground.render import ago, dropped, evenly, figure, lasting, make_environment, percent, url

TEMPLATES = sorted((render.HERE / "templates").rglob("*.html"))
ASSETS = sorted((render.HERE / "assets").iterdir())
HOSTILE = "<img src=x onerror=alert(1)>\u202e\u200b&\"'"


class Seen(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.said += data


def filled(template: str, **values: object) -> str:
    return make_environment().from_string(template).render(**values)


def test_what_a_template_prints_is_text_and_what_is_hidden_is_marked() -> None:
    shown = filled("<p>{{ x }}</p>", x=HOSTILE)
    assert Seen(shown).tags == ["p", "span", "span"]
    assert "<img" not in shown and "U+202E" in shown and "ZWSP" in shown
    assert not {"\u202e", "\u200b"} & set(shown)
    assert filled("{{ x }}", x=Markup("<b>ours</b>")) == "<b>ours</b>"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_text_becomes_markup_wherever_it_stands(text: str) -> None:
    shown = Seen(filled('<i title="{{ x | attr }}">{{ x }}</i><pre>{{ x | block }}</pre>', x=text))
    assert set(shown.tags) <= {"i", "pre", "span"} and shown.tags.count("i") == 1
    field = filled('<b value="{{ x | field }}">', x=text)
    assert html.unescape(field[len('<b value="') : -2]) == text


def test_words_that_are_gone_later_are_struck_and_nothing_else_changes() -> None:
    shown = dropped("def solve(nums) total", "solve nums total")
    assert shown == "<del>def</del> solve<del>(</del>nums<del>)</del> total"
    assert dropped("a <b>", None) == "a &lt;b&gt;"


@settings(max_examples=100, deadline=None)
@given(st.text("ab <&\n", max_size=30), st.text("ab <&\n", max_size=30))
def test_striking_words_keeps_the_text(before: str, after: str) -> None:
    plain = re.sub(r"</?del>", "", dropped(before, after))
    assert plain == render.text(before)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (figure(1.2345, ".2f"), "1.23"), (figure(-1.0, ".1f"), "−1.0"), (figure(None), "–"),
        (figure(float("nan")), "–"), (figure(True), "–"), (figure("7"), "–"), (percent(0.9625), "96.2 %"),
        (percent(None), "–"), (lasting(59), "59 s"), (lasting(65), "1 min 05 s"),
        (lasting(3700), "1 h 01 min"), (lasting(None), "–"), (ago(100, 103), "just now"),
        (ago(0, 7300), "2 h ago"), (ago(10, 5), "just now"),
        (url("runs", "a/../b"), "/runs/a%2F..%2Fb"), (url("", search="", page=2), "/?page=2"),
        (url("x", run=["a&b", "ü"]), "/x?run=a%26b&run=%C3%BC"),
    ],
)  # fmt: skip
def test_numbers_times_and_addresses_are_worded_so(shown: str, wanted: str) -> None:
    assert shown == wanted


def test_even_distances_keep_both_ends() -> None:
    assert evenly(list(range(100)), 4) == [0, 33, 66, 99] and evenly([1, 2], 4) == [1, 2]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_a_template_escapes_in_attributes_and_holds_neither_style_nor_script(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert "| safe" not in source and "|safe" not in source and "autoescape" not in source
    tags = re.findall(r"<[a-zA-Z](?:\{\{.*?\}\}|\{%.*?%\}|[^>{])*>", source, re.S)
    for tag in tags:
        for value in re.findall(r'="([^"]*?\{\{.*?\}\}[^"]*)"', re.sub(r"(\{\{.*?\}\})", quoted, tag)):
            assert "| attr" in value or "| field" in value or FIXED.search(value), (tag, value)
        assert not re.search(r"\s(style|on[a-z]+)\s*=", tag), tag
    assert not re.search(r"<style|<script(?! src=\"/assets/page\.js\" defer)", source)


# A choice between two texts of the template's own.
FIXED = re.compile(r"\{\{ '\w+' if .* else '\w+' \}\}")


def quoted(found: re.Match[str]) -> str:
    """Keep quotes inside an expression from ending the attribute."""
    return found[1].replace('"', "'")


@pytest.mark.parametrize("file", [*TEMPLATES, *ASSETS], ids=lambda file: file.name)
def test_nothing_is_loaded_from_elsewhere(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    addresses = [found for found in re.findall(r"(?:https?:)?//[\w.]+", source) if "w3.org" not in found]
    comments = {line for line in source.splitlines() if line.strip().startswith("//")}
    assert not [one for one in addresses if not any(one in line for line in comments)]
    assert "@import" not in source and "url(" not in re.sub(r"\{\{.*?\}\}", "", source, flags=re.S)
