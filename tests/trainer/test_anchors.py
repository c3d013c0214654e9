"""Anchors: who draws them and when, and that the student as it was stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from trainer.channels.sampling import sample
from trainer.channels.text import anchors
from trainer.channels.text.anchors import TextTrainer, untrained_of
from trainer.channels.text.reward_function import CompressionReward
from trainer.cli import main
from trainer.config import ConfigError
from trainer.config_text import TextConfig
from trainer.runs import Run
from trainer.tasks.starter import starter_tasks

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`", "ignore:`gradient_checkpointing`"
)
PROMPTS = [[5, 6, 7]] * 4 + [[9, 8]] * 4


@pytest.fixture(scope="module")
def build(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TextTrainer]:
    """Makes a trainer that anchors every second step, and whose student has since become another."""

    def built(*, adapted: bool, window: bool = False, **settings: Any) -> TextTrainer:
        config = AutoConfig.from_pretrained(student_folder)
        if window:
            config.layer_types, config.sliding_window = ["sliding_attention"], 64
        model = AutoModelForCausalLM.from_pretrained(student_folder, config=config)
        untrained = None if adapted else untrained_of(model)
        tokenizer = AutoTokenizer.from_pretrained(student_folder)
        reward = CompressionReward(
            TextConfig(), starter_tasks("train", 2), tokenizer, frozenset({tokenizer.eos_token_id}), None
        )
        trainer = TextTrainer(
            model=model, reward_funcs=reward,
            args=GRPOConfig(
                output_dir=str(tmp_path_factory.mktemp("out")), use_cpu=True, report_to="none",
                per_device_train_batch_size=8, num_generations=4, activation_checkpointing=False,
                max_completion_length=6, **settings,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["sum the numbers"]}), processing_class=tokenizer,
            peft_config=LoraConfig(target_modules="all-linear", init_lora_weights=False) if adapted else None,
        )  # fmt: skip
        trainer.reward = reward
        trainer.anchor(0.5, 1, untrained)
        torch.manual_seed(5)
        with torch.no_grad():
            for weights in trainer.model.parameters():
                if weights.requires_grad:
                    weights.add_(4 * torch.randn_like(weights))
        return trainer

    return built


@pytest.mark.parametrize("adapted", [False, True])
def test_an_anchor_is_the_untrained_students_and_the_rest_is_not(
    build: Any, student_folder: Path, monkeypatch: pytest.MonkeyPatch, adapted: bool
) -> None:
    """All of an anchor is the untrained student's here, and the likeliest token is drawn."""
    trainer = build(adapted=adapted)
    monkeypatch.setattr(anchors, "SHARE", (1.0, 1.0))
    trainer.temperature, trainer.state.global_step = 0, 1
    found = trainer._drawn(trainer.model.eval(), PROMPTS)
    old = AutoModelForCausalLM.from_pretrained(student_folder).eval()
    own, untrained = (
        sample(
            model, PROMPTS, temperature=0, max_tokens=6, ends=trainer.eos_token_ids,
            pad=trainer.processing_class.pad_token_id,
        )
        for model in (trainer.model, old)
    )  # fmt: skip
    assert own[3] != untrained[3] and own[7] != untrained[7]
    assert found == [*own[:3], untrained[3], *own[4:7], untrained[7]]
    assert trainer.reward.anchors == {3, 7}


@pytest.mark.parametrize(
    ("rate", "cycle", "steps"), [(0.5, 1, [1, 3, 5]), (1, 1, [0, 1, 2, 3, 4, 5]), (0.5, 2, [2, 3])]
)
def test_a_share_of_the_steps_has_anchors(build: Any, rate: float, cycle: int, steps: list[int]) -> None:
    trainer = build(adapted=False)
    trainer.rate, trainer.cycle = rate, cycle
    drawn = []
    for trainer.state.global_step in range(6):
        trainer._drawn(trainer.model, PROMPTS)
        drawn += [trainer.state.global_step] * bool(trainer.reward.anchors)
    assert drawn == steps


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"top_p": 0.9}, "top_p=0.9"), ({"top_k": 5}, "top_k=5"), ({"trl": {"use_vllm": True}}, "trl.use_vllm")],
)
def test_settings_that_draw_otherwise_are_refused_before_anything_starts(
    settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=f"anchor_rate=0.5 with {named}: .*set anchor_rate=0"):
        TextConfig.model_validate({"anchor_rate": 0.5, **settings})
    TextConfig.model_validate({"anchor_rate": 0, **settings})


def test_a_process_that_samples_parts_of_groups_takes_no_anchors(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(adapted=False)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 4)
    with pytest.raises(ConfigError, match=r"samples 2 messages, .* num_generations=4; set anchor_rate=0"):
        trainer.anchor(0.5, 1, None)


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"top_k": 5}, {"window": True}])
def test_where_no_anchor_can_be_drawn_it_is_said(build: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"anchor_rate=0\.5: .*set anchor_rate=0"):
        build(adapted=False, **settings)


@pytest.mark.slow
def test_a_run_notes_its_anchors(student_folder: Path, rooms: Any, tmp_path: Path) -> None:
    code = main([
        "train", "text", "--dataset", "starter", "--no-lora", "--generator-model", "echo", "--device", "cpu",
        "--train-tasks", "8", "--validation-tasks", "2", "--heldout-tasks", "2", "--max-steps", "4",
        "--batch-size", "8", "--gradient-accumulation-steps", "1", "--num-generations", "4",
        "--max-completion-length", "8", "--threads", "1", "--save-steps", "4", "--eval-steps", "4",
        "--anchor-rate", "0.5", "--runs", str(tmp_path), "--name", "run",
        "--student-model", str(student_folder), *rooms.flags,
    ])  # fmt: skip
    assert code == 0
    run = Run(tmp_path / "run")
    noted = [(row["step"], row["anchor"]) for row in run.rows("episodes.jsonl")]
    assert noted == [(step, step % 2 == 0 and place % 4 == 3) for step in (1, 2, 3, 4) for place in range(8)]
    assert ["anchor/pass_rate" in row for row in run.rows("metrics.jsonl")] == [False, True] * 2
