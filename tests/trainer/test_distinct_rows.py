"""Completions that are the same are computed once, and give the figures and gradients of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from trainer.channels.grpo import RecordedTrainer

KEEP = 4


pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`", "ignore:`gradient_checkpointing"
)


@pytest.fixture(scope="module")
def trainer(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedTrainer:
    return RecordedTrainer(
        model=AutoModelForCausalLM.from_pretrained(student_folder),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("out")), use_cpu=True, report_to="none",
            per_device_train_batch_size=2, num_generations=2, activation_checkpointing=False, bf16=False,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["sum the numbers"]}),
        processing_class=AutoTokenizer.from_pretrained(student_folder),
    )  # fmt: skip


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return [6, 7] tokens and what is shown: rows 0, 2 and 5 are the same, 4 shows less of the same."""
    a, b, c = [9, 8, 7, 6, 5, 4, 1], [9, 8, 7, 11, 12, 1, 1], [1, 8, 7, 6, 5, 4, 1]
    rows = torch.tensor([a, b, a, c, a, a])
    shown = torch.ones_like(rows)
    shown[1, 6], shown[3, 0] = 0, 0
    shown[4, 5:] = 0
    return rows, shown


def test_figures_and_gradients_are_those_of_every_row(trainer: RecordedTrainer) -> None:
    rows, shown = batch()
    weight = torch.randn(len(rows), KEEP, generator=torch.Generator().manual_seed(0)) * shown[:, -KEEP:]
    found = []
    for way in (RecordedTrainer, GRPOTrainer):
        trainer.model.zero_grad()
        logps, entropies, _ = way._get_per_token_logps_and_entropies(
            trainer, trainer.model, rows, shown, KEEP, compute_entropy=True
        )
        (weight * logps).sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
        found.append((logps * shown[:, -KEEP:], entropies * shown[:, -KEEP:], gradients))
    assert found[0][2].abs().max() > 1e-3
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "computed"),
    [({}, 4), ({"batch_size": 3}, 3), ({"token_type_ids": torch.zeros(6, 7, dtype=torch.long)}, 6)],
)
def test_only_distinct_rows_are_computed(
    trainer: RecordedTrainer, more: dict[str, Any], computed: int
) -> None:
    rows, shown = batch()
    seen: list[int] = []

    def look(_: Any, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        seen.append(len(named["input_ids"]))
        return args, {key: value for key, value in named.items() if key != "token_type_ids"}

    handle = trainer.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, rows, shown, KEEP, **more
        )
    finally:
        handle.remove()
    assert seen[0] == computed and sum(seen) == (6 if computed == 6 else 4)
    assert logps.shape == (6, KEEP) and entropies is None
