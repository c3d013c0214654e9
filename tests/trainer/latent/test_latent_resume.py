"""How a latent run goes on: after an outage in an evaluation, elsewhere, and after its own end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.trainer.latent.conftest import argv, evaluations, hidden, metrics, run, state_of, talks

from shared.errors import NoAnswer
from shared.wire_latents import LatentLossReply
from trainer.channels.latent.teacher import LocalTeacher
from trainer.channels.latent.trainer import training_arguments
from trainer.config import ConfigError, resolve
from trainer.config_latent import LatentConfig

AWAY = None


class Moody(LocalTeacher):
    """A teacher that says what it is told of the next evaluations, or is away; then what it thinks.

    moods  its losses
    """

    moods: list[float | None]

    def loss(self, *asked: Any, **options: Any) -> LatentLossReply:
        reply = super().loss(*asked, **options)
        if options["gradient"] or not self.moods:
            return reply
        mood = self.moods.pop(0)
        if mood is AWAY:
            raise NoAnswer("the teacher is away")
        return reply.model_copy(update={"loss": mood})


def steps_of(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in metrics(out)]


@pytest.mark.slow
def test_no_evaluation_is_lost_to_an_outage_and_none_of_its_consequences(
    tmp_path: Path, teacher_folder: Path, student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, states = talks(tmp_path, 6), hidden(tmp_path, [f"t{n}" for n in range(6)])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    flags = ["--max_steps", "12", "--eval_ratio", "0.3", "--eval_steps", "2", "--save_steps", "6",
             "--early_stopping_patience", "2", "--head_dropout", "0.1"]  # fmt: skip

    def ended(words: list[str], *moods: float | None) -> int:
        monkeypatch.setattr(Moody, "moods", list(moods), raising=False)
        return run(words).returncode

    def new(out: Path) -> list[str]:
        return argv(out, teacher_folder, student_folder, data, states, *flags)

    monkeypatch.setattr("trainer.channels.latent.trainer.open_teacher", Moody)
    assert ended(new(whole), 3.0, 2.0, 5.0, 4.0) == 0
    assert [row["step"] for row in evaluations(whole)] == [2, 4, 6, 8]
    # The best lies between two checkpoints, and so does the end.
    kept = {folder.name for folder in whole.glob("checkpoints/*")}
    assert kept == {"checkpoint-4", "checkpoint-8", "best"}

    assert ended(new(broken), 3.0, AWAY) == 1
    assert ended(["train", "latent", "--resume", str(broken)], 2.0, 5.0, AWAY) == 1
    (tmp_path / "elsewhere").mkdir()
    broken.rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ended(["train", "latent", "--resume", "moved"], 4.0) == 0
    assert evaluations(Path("moved")) == evaluations(whole)
    assert steps_of(Path("moved")) == steps_of(whole)
    best = "checkpoints/best/model.safetensors"
    assert Path("moved", best).read_bytes() == (whole / best).read_bytes()
    assert (whole / best).read_bytes() == (whole / "checkpoints/checkpoint-4/model.safetensors").read_bytes()
    assert state_of(whole, 8)["best_metric"] == 2.0

    # What has ended early is not prolonged.
    assert ended(["train", "latent", "--resume", str(whole)]) == 0
    assert len(evaluations(whole)) == 4
    assert len(metrics(whole)) == 8


GIVEN = {
    "teacher_model_name_or_path": "starter", "student_model_name_or_path": "starter",
    "data_path": "starter", "kl_weight": 0, "align_weight": 0,
}  # fmt: skip


def test_one_checkpoint_is_too_few_for_the_best_and_the_last() -> None:
    assert resolve(LatentConfig, [], {**GIVEN, "save_total_limit": 2}).save_total_limit == 2
    with pytest.raises(ConfigError, match="save_total_limit=1: input should be greater than or equal to 2"):
        resolve(LatentConfig, [], {**GIVEN, "save_total_limit": 1})


@pytest.mark.parametrize(
    ("further", "told"),
    [
        ({"save_only_model": True}, "save_only_model cannot be changed: exact resume"),
        ({"save_strategy": "no", "optim": "adafactor"}, "save_strategy cannot be changed"),
        ({"output_dir": "x"}, "output_dir is a setting of its own; use its flag"),
        ({"optim": "adafactor"}, None),
    ],
)
def test_what_a_run_stands_on_is_no_further_argument(
    further: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    config = resolve(LatentConfig, [], {**GIVEN, "training_arguments": further})
    if told is None:
        assert training_arguments(config, tmp_path, 2, device="cpu", evaluated=True).optim == "adafactor"
        return
    with pytest.raises(ConfigError, match=told):
        training_arguments(config, tmp_path, 2, device="cpu", evaluated=True)
