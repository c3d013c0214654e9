"""Hidden states collected in several goes: never of two kinds, and only those that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from trainer import cli_latent_collect
from trainer.cli import main


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command whose rows are all there, stopped before they became a data set; the teacher is here."""
    monkeypatch.setenv("PSUEDOPTIMAL_TEACHER_IN_PROCESS", "true")
    words = ["collect", "hidden", "--output", str(tmp_path / "hidden"), "--validation-tasks", "1"]
    words += ["--heldout-tasks", "1", "--train-tasks"]
    with monkeypatch.context() as context:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        context.setattr(cli_latent_collect, "_join", stop)
        assert main([*words, "4"]) == 130
    return words


def test_rows_that_were_collected_otherwise_are_refused_and_no_row_stays_that_is_not_asked_for(
    stopped: list[str], tmp_path: Path, capsys: Any
) -> None:
    output, parts = tmp_path / "hidden", tmp_path / "hidden.parts"
    for other in (["--at", "token"], ["--layout", "plain"], ["--plans", "write"]):
        assert main([*stopped, "4", *other]) == 2
        said = capsys.readouterr().err
        assert f"{parts}: holds rows that were collected otherwise ({other[0][2:]}=" in said
        assert "now '" in said and "remove that folder to begin anew" in said
    note = parts / "how.json"
    kept = note.read_text(encoding="utf-8")
    note.write_text(kept.replace('"weights": "', '"weights": "0'), encoding="utf-8")
    assert main([*stopped, "2"]) == 2
    assert "(weights='0" in capsys.readouterr().err and not output.exists()
    note.unlink()  # parts of before such notes were made
    assert main([*stopped, "2"]) == 2
    note.write_text(kept, encoding="utf-8")
    assert main([*stopped, "2"]) == 0
    assert "4 rows, 4 collected already" in capsys.readouterr().err
    found = load_from_disk(str(output))
    assert len(found) == len(set(found["id"])) == 4 and not parts.exists()
