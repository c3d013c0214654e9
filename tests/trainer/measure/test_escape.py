"""Nothing untrusted becomes markup, and nothing stays unseen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.measure.escape import attribute, html, plain


def test_markup_is_shown_as_text() -> None:
    assert html("<script>\"&'</script>") == "&lt;script&gt;&quot;&amp;&#x27;&lt;/script&gt;"


@pytest.mark.parametrize(
    ("hidden", "name"),
    [
        ("\u202e", "U+202E"),
        ("\u200b", "ZWSP"),
        ("\x1b", "␛"),
        ("\x00", "␀"),
        ("\u2066", "U+2066"),
        ("\ufeff", "BOM"),
        ("\U000e0041", "U+E0041"),
        ("\u3164", "U+3164"),
        ("\u2800", "U+2800"),
        ("\ud800", "U+D800"),
        ("\xa0", "NBSP"),
        ("\ufe0f", "U+FE0F"),
        ("\x85", "U+0085"),
        ("\u2028", "U+2028"),
    ],
)
def test_a_hidden_character_becomes_a_marker_that_names_it(hidden: str, name: str) -> None:
    assert f">{name}</span>" in html(f"a{hidden}b")
    assert hidden not in html(f"a{hidden}b") and plain(f"a{hidden}b") == f"a⟦{name}⟧b"


def test_line_feeds_are_layout_in_a_block_and_marked_on_a_line() -> None:
    assert html("a\n\tb", block=True) == "a\n\tb"
    assert "↵" in html("a\nb") and "\n" not in plain("a\nb")


def test_ordinary_text_of_any_language_stays_as_it_is() -> None:
    assert html("naïve λ → 数 é") == "naïve λ → 数 é"
    assert html("e\u0301") == "e\u0301"


def test_piled_up_accents_are_cut_to_markers() -> None:
    assert html("a" + "\u0301" * 40).count("U+0301") == 38


def test_what_is_cut_is_said() -> None:
    assert html("x" * 50, limit=10).endswith("… (40 more characters)")


@given(st.text(alphabet=st.characters()))
def test_no_text_reaches_the_page_with_anything_hidden_or_any_markup(text: str) -> None:
    for shown in (
        attribute(text),
        html(text).replace('<span class="hidden" title="', "").replace("</span>", ""),
    ):
        assert "<" not in shown
        categories = {unicodedata.category(char) for char in shown if char != " "}
        assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
        shown.encode("utf-8")
