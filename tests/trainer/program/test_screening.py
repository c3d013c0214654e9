"""Screening where it cannot choose: too little to learn from after a resume, and a sandbox that refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.channels.callbacks import Halted
from trainer.channels.program.policy import Policy
from trainer.channels.program.reward_function import ProgramReward
from trainer.channels.program.screening import Screening
from trainer.channels.text.student import precision
from trainer.config import resolve
from trainer.config_program import ProgramConfig
from trainer.runs import SCREENINGS, NothingToLearn, Run
from trainer.starter.sequences_build import Recipe, new_model
from trainer.starter.sequences_tokenizer import make_tokenizer
from trainer.supervise import Service

SEQUENCES = [(7, 7, 7), (8, 8, 8), (9, 9, 9)]


def screening(folder: Path, url: str) -> Screening:
    """Return a screening by a policy that only ever writes one program: there is nothing to learn from."""
    config = resolve(
        ProgramConfig, [],
        {"sandbox_url": [url], "screen_samples": 2, "screen_every": 2, "batch_size": 1, "samples": 2,
         "device": "cpu", "output_dir": None},
    )  # fmt: skip
    run = Run(folder) if folder.is_dir() else Run.create(folder.parent, folder.name, config)
    tokenizer = make_tokenizer()
    program = tokenizer("output = repeat_num(3, 5)\n", add_special_tokens=False)["input_ids"]

    def always(_: Any, prompts: list[list[int]], **__: Any) -> list[list[int]]:
        return [list(program) for _ in prompts]

    torch.manual_seed(0)
    model = new_model(Recipe(width=16, inner=16, layers=1, heads=1), tokenizer)
    policy = Policy(model, tokenizer, precision(config.models), always)
    return Screening(config, policy, ProgramReward(config, SEQUENCES), run)


def places(found: Screening, step: int) -> list[int]:
    return [row["place"] for row in found.rows(step, [{}, {}], found.policy.model)]


def test_a_look_that_finds_too_little_keeps_to_the_one_before_also_after_a_resume(
    sandbox: Service, tmp_path: Path
) -> None:
    first = screening(tmp_path / "run", sandbox.url)
    with pytest.raises(NothingToLearn, match="leaves 0 of 3"):
        places(first, 0)
    assert first.run is not None
    first.run.append(SCREENINGS, [{"step": 0, "screened": 3, "places": [2], "seconds": 0.1}])
    assert places(first, 1) == [2, 2]
    # One that goes on at the step of the next look has nothing in memory.
    resumed = screening(tmp_path / "run", sandbox.url)
    assert places(resumed, 2) == places(first, 2) == [2, 2]
    assert [(row["step"], row["places"]) for row in first.run.rows(SCREENINGS)] == [(0, [2]), (2, [2])]


def test_a_sandbox_that_refuses_halts_the_run_in_front_of_the_step(sandbox: Service, tmp_path: Path) -> None:
    refused = screening(tmp_path / "run", f"{sandbox.url}/nowhere")
    with pytest.raises(Halted, match="no screening in front of step 1: "):
        places(refused, 0)
