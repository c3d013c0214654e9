"""The plotter's arithmetic, and that what it draws is well-formed."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from trainer.measure.figures import Panel, curves, smoothed, stack, stacked, thinned, tradeoff
from trainer.measure.plot import Dot, Frame, Layer, Line, log_ticks, number, span, ticks

DOTS = [
    Dot("trained <student>\u202e", 10, 0.9, 0, (9, 11), (0.85, 0.94), big=True),
    Dot("empty", 0, 0.0, 8, hollow=True),
    Dot("reference", 40, 1.0, 7),
]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3, 47, 5) == [10, 20, 30, 40]
    assert ticks(-0.03, 1.04, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(5, 5, 5) == [5]
    assert log_ticks(3, 60) == [5, 10, 20, 50]


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.25, 12, 15000, 3e6)] == ["0.25", "12", "15k", "3M"]


def test_a_range_holds_its_values_and_is_never_empty() -> None:
    low, high = span([2, 2])
    assert low < 2 < high
    assert span([1, 9], zero=True)[0] == 0
    assert span([]) != (0, 0)


def test_the_frame_maps_corners_to_corners() -> None:
    frame = Frame((1, 100), (0, 1), "x", "y", "t", 200, 100, log_x=True)
    assert (frame.x(1), frame.x(100)) == (frame.left, 200 - frame.right)
    assert frame.x(10) == pytest.approx((frame.left + 200 - frame.right) / 2)
    assert (frame.y(0), frame.y(1)) == (100 - frame.bottom, frame.top)


def test_the_moving_mean_is_centred_and_shorter_at_the_ends() -> None:
    assert smoothed([(0, 0), (1, 3), (2, 6)], 3) == [(0, 1.5), (1, 3), (2, 4.5)]


def test_groups_cover_every_row_once() -> None:
    groups = thinned(205, 80)
    assert len(groups) == 80 and [i for g in groups for i in g] == list(range(205))
    assert thinned(0, 80) == []


def test_a_standalone_plot_is_well_formed_and_shows_hidden_characters() -> None:
    drawn = tradeoff(DOTS, [Line("path", [(20, 0.5), (10, 0.9)], 0, "dash")], title="a & b", standalone=True)
    tree = ET.fromstring(drawn)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "trained <student>⟦U+202E⟧" in texts
    assert "prefers-color-scheme:dark" in drawn


def test_labels_do_not_cover_each_other() -> None:
    import re

    drawn = tradeoff([Dot(f"sender number {i}", 10 + i / 50, 0.5 + i / 200, 7) for i in range(8)], title="t")
    places = re.findall(r'<text class="label k7" x="([\d.]+)" y="([\d.]+)">(sender[^<]+)', drawn)
    boxes = [(float(x), float(y) - 11, float(x) + len(name) * 7.2, float(y) + 3) for x, y, name in places]
    assert len(boxes) == 8
    meeting = [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
    assert not meeting


def test_no_label_of_a_panel_covers_its_head() -> None:
    import re

    dots = [Dot(f"a sender whose name is long {i}", 10 + i / 50, 1.0, 7, (9, 12), (0.5, 1)) for i in range(5)]
    drawn = stacked([Panel("text", "counted so " * 9, 0, dots, [])], title="t", x_label="bits", unit="bits")
    heights = [
        float(y) for y in re.findall(r'<text class="label k7" x="[\d.]+" y="([\d.]+)">a sender', drawn)
    ]
    assert len(heights) == 5 and min(heights) - 11 > 18


def test_figures_of_nothing_are_nothing() -> None:
    assert curves([Line("x", [])], title="t", y_label="y") == ""
    assert stack([1], [Layer("x", [1])], title="t", y_label="y") == ""
    assert tradeoff([], title="t") == ""


def test_a_stack_of_shares_reaches_the_top() -> None:
    drawn = stack(
        [1, 2], [Layer("a", [0.25, 0.5]), Layer("b", [0.75, 0.5])], title="t", y_label="y", percent=True
    )
    ET.fromstring(drawn)
    assert f"{Frame.top:.1f}" in drawn


def test_what_has_no_tokens_stands_beside_the_logarithmic_axis_over_a_nought() -> None:
    import re

    def at(drawn: str, name: str) -> float:
        return float(re.search(rf'cx="([\d.]+)"[^>]*><title>{name}:', drawn)[1])

    dots = [Dot("five", 5, 0.5, 0), Dot("fifty", 50, 0.5, 1)]
    plain = tradeoff(dots, title="t")
    broken = tradeoff([*dots, Dot("empty", 0, 0.0, 8)], title="t")
    noughts = re.findall(r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="middle">0<', broken)
    assert [float(x) for x in noughts] == [at(broken, "empty")]
    lowest = min(float(x) for x in re.findall(r'<line class="axis" x1="([\d.]+)" x2="\1"', broken))
    breaks = [float(x) for x in re.findall(r'<path class="axis" d="M([\d.]+)', broken)]
    assert Frame.left < at(broken, "empty") < min(breaks) < max(breaks) < lowest < at(broken, "fifty")
    assert at(plain, "five") < at(broken, "five") and '<path class="axis"' not in plain


def test_panels_share_one_axis_and_keep_their_own_marks() -> None:
    import re

    one = Panel("first <b>", "counted so", 0, [Dot("ten", 10, 0.5, 0, (9, 11), (0.4, 0.6))], [])
    two = Panel(
        "second", "", 1, [Dot("ten", 10, 1.0, 1), Dot("nothing", 0, 0.0, 1), Dot("far", 900, 0.2, 1)], []
    )
    drawn = stacked([one, two], title="t", x_label="bits", unit="bits", standalone=True)
    tree = ET.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    moved = [group.get("transform") for group in tree.iter(f"{space}g")]
    assert moved == ["translate(0 0)", "translate(0 210)"]
    at = [float(circle.get("cx") or 0) for circle in tree.iter(f"{space}circle")]
    assert len(at) == 3 and at[0] == at[1] < at[2]  # ten bits are at one place; nought has none
    assert drawn.count(">bits</text>") == 1 and "first &lt;b&gt;" in drawn
    assert not re.search(r">1[1-9]0 %", drawn)
    assert stacked([Panel("empty", "", 0, [], [])], title="t", x_label="bits", unit="bits") == ""
