"""Sampling with shared beginnings: the programs are those of one row each, by one process or by several."""

from __future__ import annotations

import signal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicLayer

from trainer.channels.program.samplers import Samplers
from trainer.channels.program.sampling import RoomyLayer, placed, sample_shared
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


def test_greedy_programs_are_those_of_rows_of_their_own(model: LlamaForCausalLM) -> None:
    thrice = [prompt for prompt in PROMPTS for _ in range(3)]
    found = sample_shared(model, thrice, temperature=0, max_tokens=70, **SETTINGS)
    assert found == sample(model, thrice, temperature=0, max_tokens=70, **SETTINGS)
    assert max(map(len, found)) == 70


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_programs_are_drawn_as_often_as_the_model_says(model: LlamaForCausalLM, temperature: float) -> None:
    """The frequencies of a program's first four tokens, beside those computed by enumeration."""
    n, prompt = 4000, PROMPTS[2]
    torch.manual_seed(0)
    found = sample_shared(
        model, [PROMPTS[0]] * 50 + [prompt] * n + [PROMPTS[1]] * 50, temperature=temperature, max_tokens=4,
        **SETTINGS,
    )[50:-50]  # fmt: skip
    prefixes: dict[tuple[int, ...], float] = {(): 1.0}
    for length in range(1, 5):
        wanted: dict[tuple[int, ...], float] = {}
        going = [prefix for prefix in prefixes if END not in prefix]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *prefix] for prefix in going])).logits[:, -1]
        for prefix, row in zip(going, (logits / temperature).softmax(-1).tolist(), strict=True):
            wanted |= {(*prefix, token): prefixes[prefix] * p for token, p in enumerate(row)}
        for prefix, p in wanted.items():
            share = sum(tuple(program[:length]) == prefix for program in found) / n if p > 0.01 else p
            assert abs(share - p) <= 5 * (p * (1 - p) / n) ** 0.5
        prefixes = {prefix: p for prefix, p in wanted.items() if p > 1e-3}


def test_a_beginning_that_is_shared_is_computed_once(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = model.forward

    def counted(input_ids: torch.Tensor, **more: object) -> object:
        rows.append(len(input_ids))
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(model, "forward", counted)
    torch.manual_seed(0)
    found = sample_shared(model, [PROMPTS[0]] * 200, temperature=0.7, max_tokens=5, **SETTINGS)
    going = [program[:length] for length in range(1, 5) for program in found if len(program) > length]
    assert rows[0] == 1
    assert sum(rows[1:]) == len({tuple(prefix) for prefix in going}) < len(going) / 3


def test_a_roomy_layer_holds_what_transformers_own_does() -> None:
    torch.manual_seed(0)
    roomy, plain = RoomyLayer(), DynamicLayer()
    rows = 3
    for columns in (4, *[1] * 90):
        new = [torch.rand(rows, 2, columns, 8) for _ in range(2)]
        for one, two in zip(roomy.update(*new), plain.update(*new), strict=True):
            assert torch.equal(one, two)
        assert roomy.get_seq_length() == plain.get_seq_length()
        chosen = torch.randint(rows, (int(torch.randint(1, 12, ())),))
        roomy.batch_select_indices(chosen)
        plain.batch_select_indices(chosen)
        rows = len(chosen)


def test_branches_stay_in_their_rows_where_they_can() -> None:
    for parents in ([0, 0, 1, 4, 4, 5], [0, 1, 2], [2, 5], [0, 0, 0], [3]):
        rows, sources = placed(torch.tensor(parents))
        assert sorted(rows.tolist()) == list(range(len(parents)))
        assert sources[rows].tolist() == parents
        stays = int((sources == torch.arange(len(parents))).sum())
        assert stays == len({parent for parent in parents if parent < len(parents)})


def test_several_processes_sample_what_one_does_with_the_weights_as_they_are(model: LlamaForCausalLM) -> None:
    samplers = Samplers(model, 3)
    try:
        for _ in range(2):
            for some in (PROMPTS, PROMPTS[:1], [prompt for prompt in PROMPTS for _ in range(3)]):
                found = samplers(model, some, temperature=0, max_tokens=30, **SETTINGS)
                assert found == sample_shared(model, some, temperature=0, max_tokens=30, **SETTINGS)
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
