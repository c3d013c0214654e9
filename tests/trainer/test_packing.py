"""What is the same in a batch is computed once, and gives the figures and gradients of all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from trainer.channels.grpo import RecordedTrainer
from trainer.channels.packing import pack

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`", "ignore:`gradient_checkpointing"
)
KEEP = 4


@pytest.fixture(scope="module")
def build(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RecordedTrainer]:
    """Makes a trainer; `plain=False` gives its model a window, which packing cannot show to it."""

    def built(*, plain: bool = True, bf16: bool = False) -> RecordedTrainer:
        config = AutoConfig.from_pretrained(student_folder)
        if not plain:
            config.layer_types, config.sliding_window = ["sliding_attention"], 64
        return RecordedTrainer(
            model=AutoModelForCausalLM.from_pretrained(student_folder, config=config),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(tmp_path_factory.mktemp("out")), use_cpu=True, report_to="none", bf16=bf16,
                per_device_train_batch_size=2, num_generations=2, activation_checkpointing=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["sum the numbers"]}),
            processing_class=AutoTokenizer.from_pretrained(student_folder),
        )  # fmt: skip

    return built


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return [8, 7] tokens of four prompts, and what is shown: rows 0, 2 and 5 are the same, 4 shows less of
    that, 7 nothing of its completion."""
    a, b, c, d = [9, 8, 7, 6, 5, 4, 1], [9, 8, 7, 11, 12, 1, 1], [1, 8, 7, 6, 5, 4, 1], [7, 7, 7, 6, 5, 4, 1]
    rows = torch.tensor([a, b, a, c, a, a, d, [5, 5, 5, 6, 5, 4, 1]])
    shown = torch.ones_like(rows)
    shown[1, 6], shown[3, 0] = 0, 0
    shown[4, 5:] = 0
    shown[7, 3:] = 0
    return rows, shown


@pytest.mark.parametrize(("plain", "bf16"), [(True, False), (False, False), (True, True)])
def test_figures_and_gradients_are_those_of_every_row(build: Any, plain: bool, bf16: bool) -> None:
    trainer = build(plain=plain, bf16=bf16)
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
    near = {"rtol": 0.02, "atol": 0.05} if bf16 else {"rtol": 1e-5, "atol": 3e-5}
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **near)


@pytest.mark.parametrize(
    ("plain", "processes", "more", "computed"),
    [
        # The prompts with the fewest tokens first; the one without any is left out.
        (True, 1, {}, [(1, 5), (1, 6), (1, 9)]),
        (True, 2, {}, [(3, 9)]),
        (False, 1, {}, [(6, 7)]),
        (False, 1, {"batch_size": 4}, [(4, 7), (2, 7)]),
        (True, 1, {"token_type_ids": torch.zeros(8, 7, dtype=torch.long)}, [(8, 7)]),
    ],
)
def test_what_is_the_same_is_computed_once(
    build: Any, plain: bool, processes: int, more: dict[str, Any], computed: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trainer = build(plain=plain)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", processes)
    rows, shown = batch()
    seen: list[tuple[int, ...]] = []

    def look(_: Any, args: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        seen.append(tuple(named["input_ids"].shape))
        return args, {key: value for key, value in named.items() if key != "token_type_ids"}

    trainer.model.register_forward_pre_hook(look, with_kwargs=True)
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(trainer.model, rows, shown, KEEP, **more)
    assert seen == computed
    assert logps.shape == (8, KEEP) and entropies is None


def test_what_a_packed_program_sees_is_its_prompt_and_itself() -> None:
    ids = torch.tensor([[0, 5, 6, 7, 8, 9], [0, 5, 6, 4, 2, 0], [3, 5, 6, 8, 0, 0], [3, 5, 6, 0, 0, 0]])
    shown = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    packed = pack(ids, shown, 3, torch.float32)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 6, 4], [3, 5, 6, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 1, 2], [0, 1, 2, 0, 0, 0]]
    assert packed.targets.tolist() == [[-100, 7, 8, 9, 4, 2], [-100, -100, 8, -100, -100, -100]]
    assert (packed.mask[0, 0] == 0).long().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1],
    ]  # fmt: skip
    # The last row has nothing to be scored, and is not there.
    b, t, group, column = (value.tolist() for value in packed.places)
    assert b == [0, 0, 0, 1, 1, 2] and t == [0, 1, 2, 0, 1, 0]
    assert group == [0, 0, 0, 0, 0, 1] and column == [1, 2, 3, 4, 5, 2]


def test_a_beginning_that_packed_programs_share_is_there_once() -> None:
    """7 8 9, 7 8 4 and 7 2: three columns for the first, one more for each of the others."""
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 4], [5, 6, 7, 2, 0]])
    shown = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    packed = pack(ids, shown, 3, torch.float32)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 8, 7]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 3, 2]]
    assert packed.targets.tolist() == [[-100, 7, 8, 9, 4, 2]]
    assert (packed.mask[0, 0] == 0).long().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1],
    ]  # fmt: skip
    b, t, group, column = (value.tolist() for value in packed.places)
    assert b == [0, 0, 0, 1, 1, 1, 2, 2] and t == [0, 1, 2, 0, 1, 2, 0, 1]
    assert group == [0] * 8 and column == [1, 2, 3, 1, 2, 4, 1, 5]


def test_a_batch_of_which_nothing_is_shown_still_has_a_row() -> None:
    packed = pack(torch.tensor([[5, 6, 7]]), torch.tensor([[1, 1, 0]]), 1, torch.float32)
    assert packed.ids.tolist() == [[5, 6]]
