"""Which weights a text run keeps, and what it says of them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.channels.callbacks import HeldOutCallback, StepRecorder
from trainer.channels.text.heldout import Evaluation, better, kept, read_best
from trainer.measure.folder import checkpoint_folder, checkpoint_name
from trainer.runs import Run

TARGET = 0.9


def at(step: int, pass_rate: float, tokens: float) -> Evaluation:
    rest = {"compression": None, "invisible_rate": 0.0, "truncated_rate": 0.0}
    fields = {"step": step, "split": "validation", "n": 100, "pass_rate": pass_rate, "tokens": tokens}
    return Evaluation(**{name: {**rest, **fields}.get(name, 0) for name in Evaluation._fields})


@pytest.mark.parametrize(
    ("new", "old", "wanted"),
    [
        ((0.9, 8.0), (1.0, 9.0), True),  # both reach it: the shorter one
        ((1.0, 9.0), (0.9, 8.0), False),
        ((0.9, 30.0), (0.89, 3.0), True),  # one reaches it
        ((0.89, 3.0), (0.9, 30.0), False),
        ((0.8, 30.0), (0.7, 3.0), True),  # none does: the surer one, then the shorter one
        ((0.8, 3.0), (0.8, 4.0), True),
    ],
)
def test_the_kept_weights_are_the_shortest_of_the_sure(
    new: tuple[float, float], old: tuple[float, float], wanted: bool
) -> None:
    assert better(at(2, *new), at(1, *old), TARGET) is wanted
    assert better(at(2, *new), None, TARGET)


def test_a_run_that_missed_its_target_says_so() -> None:
    assert kept(at(40, 0.946, 13.3), 0.96) == (
        "kept: step 40, the surest of those after step 0: none of them reached a pass rate of 0.96 "
        "(validation: pass 0.946  tokens 13.3)"
    )
    assert "step 280, the fewest tokens at a pass rate of 0.96" in kept(at(280, 0.96, 8.25), 0.96)


def test_the_best_weights_survive_a_kill_between_the_renames_that_replace_them(tmp_path: Path) -> None:
    run, best = Run(tmp_path), at(3, 0.95, 9.0)
    earlier, half = (run.best.with_name(f"best.{name}") for name in ("old", "partial"))
    for folder, step in ((earlier, 3), (half, 5)):
        folder.mkdir(parents=True)
        (folder / "best.json").write_text(json.dumps({**best._asdict(), "step": step}), encoding="utf-8")
    assert checkpoint_name(checkpoint_folder(tmp_path)) == "best.old (step 3)"
    assert read_best(run, Evaluation) == best
    assert checkpoint_folder(tmp_path) == run.best and not earlier.exists()


class Looks(HeldOutCallback):
    """On a rank that only waits for the one that evaluates."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        waits = SimpleNamespace(wait_for_everyone=lambda: time.sleep(0.02))
        trainer: Any = SimpleNamespace(accelerator=waits)
        trainer.recorder = self.recorder = StepRecorder(trainer, SimpleNamespace(config=None), None)
        if state is not None:
            self.recorder.load(state)
        super().__init__(trainer, None, threading.Event())


def test_the_seconds_of_evaluations_are_those_of_the_whole_run() -> None:
    first = Looks(None)
    assert first.look(2) == ""
    saved = first.recorder.state()
    before = saved["seconds"]["evaluate"]
    assert before >= 0.02
    again = Looks({**saved, "seconds": {**saved["seconds"], "train": 3.0}})
    assert again.look(4) == ""
    assert again.recorder.seconds["evaluate"] >= before + 0.02 and again.recorder.seconds["train"] == 3.0
    # A checkpoint of before they were kept.
    assert Looks({"seconds": {"train": 3.0}}).recorder.seconds == {"evaluate": 0.0, "train": 3.0}
