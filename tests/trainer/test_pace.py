"""What is said of long work: how far it is, how long the rest takes, where an interrupted one stopped."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Unavailable
from trainer.cli import main
from trainer.measure import controls_run, evaluate
from trainer.pace import Pace, duration, told_where


def test_the_rest_is_estimated_from_what_was_done_here(capsys: Any) -> None:
    pace = Pace("rows", 100, done=40, every_s=0)
    assert pace.rest_s() == 0 and pace.left() == ""  # nothing done yet, so nothing known
    pace._began = time.monotonic() - 10
    pace.add(20)
    # 20 rows in 10 s; the 40 that were there before say nothing; 40 are left.
    assert pace.rest_s() == pytest.approx(20, abs=0.5)
    assert capsys.readouterr().err == "  rows: 60 of 100, about 20 s left\n"
    pace.add(40)
    assert capsys.readouterr().err == "  rows: 100 of 100\n"


def test_lines_between_the_first_and_the_last_wait(capsys: Any) -> None:
    pace = Pace("rows", 50, every_s=1000)
    for _ in range(50):
        pace.add()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["  rows: 1 of 50", "  rows: 50 of 50"]


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (5400, "1.5 h")])
def test_a_duration_is_said_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Unavailable("away")])
def test_an_interrupt_and_an_outage_say_where_the_work_left_off(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, told_where(lambda: "3 of 5 are there"):
        raise error
    assert caught.value.__notes__ == ["3 of 5 are there"]


def test_what_is_left_of_an_evaluation_are_the_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["psuedoptimal", "evaluate", "a", "b", "c", "--n", "5"])
    said = evaluate._left([Path("a"), Path("b"), Path("c")], 2)
    assert said == "2 of 3 runs are evaluated; go on with: psuedoptimal evaluate c --n 5"


def test_what_is_left_of_controls_are_the_parts_without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["psuedoptimal", "controls", "a", "--only", "names", "--only=prefixes"])
    args: Any = type("Args", (), {"run": Path("a")})
    wanted = ["names", "prefixes"]
    assert controls_run._left(args, "controls.json", wanted, {}) == (
        "nothing was written yet; go on with: psuedoptimal controls a --only names --only=prefixes"
    )
    assert controls_run._left(args, "controls.json", wanted, {"controls": {}, "names": []}) == (
        f"{Path('a/controls.json')} has what was measured; go on with: "
        "psuedoptimal controls a --only prefixes"
    )


def test_an_interrupted_command_ends_with_130_and_says_so_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The first thing compare does is to read its runs: there a Ctrl-C comes."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.measure.folder.read_lines", interrupted)
    (tmp_path / "metrics.jsonl").touch()
    assert main(["compare", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "psuedoptimal: interrupted\nnothing was written\n"
