"""From episodes to figures and text, against numbers worked by hand."""

from __future__ import annotations

import pytest

from trainer.channels.text.heldout import Evaluation, better, summary_of
from trainer.channels.text.record import examples, live_line, printable, step_row
from trainer.channels.text.reward_function import Batch, Episode
from trainer.config_text import TextConfig
from trainer.tasks.task import Task

TASK = Task("t/1", "Find the larger of two.", "def m(a, b):", "m", "...", ("assert m(1, 2) == 2",))


def episode(outcome: str, tokens: int, reward: float, family: str = "a", message: str = "m") -> Episode:
    return Episode("t/1", family, message, tokens, 24, "def m(a, b): ...", outcome, reward)


def test_a_steps_figures_are_means_over_its_messages() -> None:
    batch = Batch(
        [
            episode("passed", 12, 20.0), episode("failed", 24, -1.0, "b"),
            episode("truncated", 48, -1.0, "b", "long"), episode("passed", 12, 20.0, "b"),
        ],
        unique=3, decode_s=0.5, sandbox_s=0.25,
    )  # fmt: skip
    row = step_row([batch])
    assert (row["pass_rate"], row["message/tokens"], row["reward/mean"]) == (0.5, 24.0, 9.5)
    assert row["ratio"] == pytest.approx((2 + 1 + 0.5 + 2) / 4)
    assert row["pass_rate_by_family"] == {"a": 1.0, "b": pytest.approx(1 / 3)}
    assert row["message/distinct"] == 0.5
    assert (row["verdict/passed"], row["verdict/truncated"]) == (0.5, 0.25)


def test_anchors_have_figures_of_their_own() -> None:
    """One helped where all else failed, one was not needed, one failed."""
    own = [episode("failed", 4, -1.0), episode("passed", 6, 2.0)._replace(task_id="t/2")]
    anchors = [
        episode("passed", 30, 2.0)._replace(anchor=True),
        episode("passed", 30, 2.0)._replace(task_id="t/2", anchor=True),
        episode("failed", 30, -1.0)._replace(task_id="t/3", anchor=True),
    ]
    row = step_row([Batch(own + anchors)])
    assert (row["pass_rate"], row["message/tokens"], row["reward/mean"]) == (0.5, 5.0, 0.5)
    assert row["anchor/pass_rate"] == pytest.approx(2 / 3)
    assert row["anchor/used"] == pytest.approx(1 / 3)
    assert "anchor/used" not in step_row([Batch(own)])


def test_a_step_that_reuses_messages_has_no_figures() -> None:
    assert step_row([]) == {}


def test_the_live_line_holds_reward_pass_rate_tokens_and_ratio() -> None:
    line = live_line(7, 100, {"reward/mean": 1.5, "pass_rate": 0.25, "message/tokens": 8.0, "ratio": 3.0})
    assert line.split() == [
        "step",
        "7/100",
        "reward",
        "1.500",
        "pass",
        "0.250",
        "tokens",
        "8.0",
        "ratio",
        "3.00",
        "-",
        "s",
    ]


def test_examples_have_the_first_experiments_layout() -> None:
    text = examples(
        150, [episode("failed", 3, -1.0), episode("passed", 12, 20.0, message="max2(a,b)")], {"t/1": TASK}, 2
    )
    assert text.splitlines()[:17] == [
        "=" * 80, "  ENCODING VISUALIZATION - Step 150", "=" * 80, "", "--- Example 1 ---",
        "TASK: Find the larger of two.", "", "ENCODING (12 tokens):", "-" * 40, "max2(a,b)", "-" * 40, "",
        "EXPANDED PYTHON (from encoding only): passed", "-" * 40, "def m(a, b): ...", "-" * 40, "=" * 80,
    ]  # fmt: skip


def test_nothing_a_model_wrote_can_move_the_terminals_cursor() -> None:
    shown = printable("a\x1b[2Jb\u202ec\rd\n" + "x" * 5000)
    assert "\x1b" not in shown and "\u202e" not in shown and "\r" not in shown
    assert shown.startswith("a\\x1b[2Jb\\u202ec\\rd\n") and shown.endswith("…") and len(shown) < 2100


def looked(step: int, pass_rate: float, tokens: float) -> Evaluation:
    return Evaluation(step, "validation", 100, pass_rate, tokens, 24.0)


def test_the_best_checkpoint_is_the_shortest_that_reaches_the_target_else_the_surest() -> None:
    front = [
        looked(1, 0.99, 20),
        looked(2, 0.95, 10),
        looked(3, 0.80, 4),
        looked(4, 0.92, 9),
        looked(5, 0.93, 9),
    ]
    best = None
    for found in front:
        best = found if better(found, best, 0.9) else best
    assert best is not None and best.step == 4
    best = None
    for found in [looked(1, 0.5, 9), looked(2, 0.7, 20), looked(3, 0.7, 12), looked(4, 0.6, 2)]:
        best = found if better(found, best, 0.9) else best
    assert best is not None and best.step == 3


def test_a_summary_compares_with_the_untrained_student_and_the_reference() -> None:
    before, after = looked(0, 0.98, 20.0), looked(9, 0.92, 8.0)
    found = summary_of(after, before, TextConfig(), {"train": 1.23456})
    assert found["heldout"] == {
        "n": 100, "pass_rate": 0.92, "tokens_per_message": 8.0,
        "compression_vs_untrained": 2.5, "compression_vs_reference": 3.0,
    }  # fmt: skip
    assert found["seconds"] == {"train": 1.235}
    silent = summary_of(looked(9, 0.0, 0.0), before, TextConfig(), {})
    assert silent["heldout"]["compression_vs_untrained"] is None
