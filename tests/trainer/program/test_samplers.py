"""Several processes that sample: together they do what one does, and one that is gone is an error."""

from __future__ import annotations

import signal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.channels.program.samplers import Samplers
from trainer.channels.sampling import sample

PAD, END, SIZE = 0, 1, 11
PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 2, 2, 10], [3, 7]]
SETTINGS = {"ends": [END], "pad": PAD}


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    shape = LlamaConfig(
        vocab_size=SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=PAD, eos_token_id=END, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def test_several_processes_sample_what_one_does_with_the_weights_as_they_are(model: LlamaForCausalLM) -> None:
    samplers = Samplers(model, 3)
    try:
        for _ in range(2):
            for some in (PROMPTS, PROMPTS[:1], [prompt for prompt in PROMPTS for _ in range(3)]):
                found = samplers(model, some, temperature=0, max_tokens=30, **SETTINGS)
                assert found == sample(model, some, temperature=0, max_tokens=30, **SETTINGS)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        many = [prompt for prompt in PROMPTS for _ in range(20)]
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(samplers(model, many, temperature=1.0, max_tokens=8, **SETTINGS))
        assert drawn[0] == drawn[1] != drawn[2]
    finally:
        samplers.close()
    assert all(other.exitcode == 0 for other in samplers.others)


def test_a_sampler_that_was_killed_is_no_programs_but_an_error(model: LlamaForCausalLM) -> None:
    samplers = Samplers(model, 2)
    samplers.others[0].kill()
    samplers.others[0].join()
    with pytest.raises((EOFError, BrokenPipeError, ConnectionResetError)):
        samplers(model, PROMPTS, temperature=0, max_tokens=3, **SETTINGS)
    samplers.close()
    assert samplers.others[0].exitcode == -signal.SIGKILL
