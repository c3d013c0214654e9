"""A run whose files were damaged is resumed from what is left, or refused by the file's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoints import damage
from trainer.cli import main
from trainer.runs import COMPLETE, Run

pytestmark = pytest.mark.slow

KEYS = ("controller", "seconds")
SMALL = [
    "--dataset", "starter", "--no-lora", "--generator-model", "echo", "--train-tasks", "4",
    "--max-steps", "3",
    "--batch-size", "4", "--gradient-accumulation-steps", "1", "--num-generations", "2", "--device", "cpu",
    "--max-completion-length", "8", "--no-gradient-checkpointing", "--threads", "1", "--examples", "0",
    "--save-steps", "1", "--save-total-limit", "3", "--eval-steps", "2", "--validation-tasks", "2",
    "--heldout-tasks", "2", "--reward", "lagrangian", "--learning-rate", "0.01", "--logging-steps", "100",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, student_folder: Path, rooms: Any) -> Path:
    """A finished run of three steps, with a checkpoint after each."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    place = ["--runs", str(folder.parent), "--name", folder.name, "--student-model", str(student_folder)]
    assert main(["train", "text", *SMALL, *place, *rooms.flags]) == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def overwrite(file: Path) -> None:
    """Put not-a-numbers (in float32) into the middle: as long as before, and still readable."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2 // 64 * 64
    data[middle : middle + 64] = b"\xff" * 64
    file.write_bytes(data)


def nan_state(file: Path) -> None:
    """Write an optimizer's state that has diverged, as large as it was."""
    import torch

    state = torch.load(file, weights_only=True)
    state["state"][0]["exp_avg"].fill_(float("nan"))
    torch.save(state, file)


DAMAGES: list[tuple[str, Callable[[Path], Any]]] = [
    ("model.safetensors", cut), ("model.safetensors", overwrite), ("model.safetensors", Path.unlink),
    ("optimizer.pt", cut), ("optimizer.pt", nan_state), ("optimizer.pt", Path.unlink),
    ("scheduler.pt", cut), ("rng_state.pth", lambda file: file.write_bytes(b"x")),
    ("config.json", cut), ("tokenizer.json", overwrite),
    ("trainer_state.json", Path.unlink), ("trainer_state.json", lambda file: file.write_text("{}")),
    (COMPLETE, lambda file: file.write_text("{")), (COMPLETE, lambda file: file.write_text("{}")),
    (COMPLETE, lambda file: file.write_bytes(b"\xff")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "harm"), DAMAGES)
@pytest.mark.parametrize("sizes", ["sizes known", "sizes unknown"])
def test_damage_is_found_by_the_files_name(
    whole: Path, tmp_path: Path, name: str, harm: Callable[[Path], Any], sizes: str
) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    shutil.copytree(whole / "checkpoints/checkpoint-3", checkpoint)
    if sizes == "sizes unknown":
        state = json.loads((checkpoint / COMPLETE).read_text())
        del state["files"]
        (checkpoint / COMPLETE).write_text(json.dumps(state))
        if harm is Path.unlink and not name.endswith(".json"):
            pytest.skip("what no one noted is not missed")
    assert damage(checkpoint, KEYS) == ""
    harm(checkpoint / name)
    assert damage(checkpoint, KEYS).startswith(f"{checkpoint / name}: ")


def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_resumed(
    whole: Path, copy: Path, rooms: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(copy / "checkpoints/checkpoint-3/optimizer.pt")
    overwrite(copy / "checkpoints/checkpoint-2/model.safetensors")
    stranger = copy / "checkpoints/checkpoint-abc"
    stranger.mkdir()
    (stranger / COMPLETE).write_text("{}")
    assert main(["train", "text", "--resume", str(copy), *rooms.flags]) == 0
    said = capsys.readouterr().err
    for step, file in ((3, "optimizer.pt"), (2, "model.safetensors")):
        assert f"checkpoints/checkpoint-{step}/{file}: " in said
        assert (copy / f"checkpoints/damaged-checkpoint-{step}").is_dir()
    assert "going on from checkpoint-1" in said
    assert stranger.is_dir()
    for name in ("episodes.jsonl", "evaluations.jsonl"):
        assert list(Run(copy).rows(name)) == list(Run(whole).rows(name))


def test_without_a_good_checkpoint_nothing_is_changed(
    copy: Path, rooms: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in Run(copy).complete_checkpoints():
        cut(folder / "model.safetensors")
    before = (copy / "metrics.jsonl").read_bytes()
    assert main(["train", "text", "--resume", str(copy), *rooms.flags]) == 2
    said = capsys.readouterr().err
    assert "checkpoint-3/model.safetensors: 100 bytes where" in said and "no earlier checkpoint" in said
    assert (copy / "metrics.jsonl").read_bytes() == before
    assert len(Run(copy).complete_checkpoints()) == 3


@pytest.mark.parametrize("line", [b"garbage\n", b"\xff\xfe\n", b"[1]\n", b'{"no": 1}\n', b"\0\0\0\n"])
def test_a_line_that_is_no_record_is_named_with_the_way_out(
    copy: Path, rooms: Any, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    file = copy / "metrics.jsonl"
    first, *rest = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, line, *rest]))
    assert main(["train", "text", "--resume", str(copy), *rooms.flags]) == 2
    said = capsys.readouterr().err
    assert f"{file}, line 2: not a record" in said and f"sed -i 2d {file}" in said
    assert file.read_bytes() == b"".join([first, line, *rest])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("best.json", lambda file: file.write_text('{"a":1}')),
        ("best.json", lambda file: file.write_text("{")),
        ("model.safetensors", cut),
    ],
)
def test_best_weights_that_are_damaged_are_put_aside_and_chosen_anew(
    copy: Path, rooms: Any, capsys: pytest.CaptureFixture[str], name: str, harm: Callable[[Path], Any]
) -> None:
    harm(copy / "checkpoints/best" / name)
    assert main(["train", "text", "--resume", str(copy), *rooms.flags]) == 0
    assert f"checkpoints/best/{name}: cannot be read" in capsys.readouterr().err
    assert Run(copy).read_json("checkpoints/best/best.json")["step"] == 3
    assert (copy / "checkpoints/damaged-best").is_dir()


@pytest.mark.parametrize(
    ("name", "harm"), [("best.json", lambda file: file.write_text("{")), ("model.safetensors", overwrite)]
)
def test_damaged_weights_are_not_measured(
    copy: Path, rooms: Any, capsys: pytest.CaptureFixture[str], name: str, harm: Callable[[Path], Any]
) -> None:
    harm(copy / "checkpoints/best" / name)
    assert main(["evaluate", str(copy), "--no-baselines", *rooms.flags]) == 2
    assert str(copy / "checkpoints/best" / name) in capsys.readouterr().err
    assert main(["evaluate", str(copy), "--no-baselines", "--checkpoint", "last", *rooms.flags]) == 0
