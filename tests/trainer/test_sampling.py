"""Sampling and packing, each beside what transformers does with one row for each program."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.cache_utils import DynamicLayer

from trainer.channels.grpo import attends_plainly
from trainer.channels.sampling import RoomyLayer, placed, sample

PAD, END, SIZE = 0, 1, 23


@pytest.fixture(params=["llama", "qwen2, grouped heads"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(3)
    shape = {
        "vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "pad_token_id": PAD, "eos_token_id": END, "initializer_range": 0.4,
    }  # fmt: skip
    if request.param == "llama":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=4, **shape)).eval()
    return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, **shape)).eval()


PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 12, 2, 19], [3, 17]]


def generated(model: torch.nn.Module, prompt: list[int], max_tokens: int) -> list[int]:
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=max_tokens, pad_token_id=PAD, eos_token_id=END
    )
    return model.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()


def test_greedy_programs_are_those_of_generate(model: torch.nn.Module) -> None:
    wanted = [generated(model, prompt, 40) for prompt in PROMPTS]
    assert len({len(program) for program in wanted}) > 1
    found = sample(model, PROMPTS, temperature=0, max_tokens=40, ends=[END], pad=PAD)
    assert found == wanted
    thrice = [prompt for prompt in PROMPTS for _ in range(3)]
    assert sample(model, thrice, temperature=0, max_tokens=40, ends=[END], pad=PAD) == [
        program for program in wanted for _ in range(3)
    ]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_programs_are_drawn_as_often_as_the_model_says(model: torch.nn.Module, temperature: float) -> None:
    """The frequencies of a program's first four tokens, beside those computed by enumeration."""
    n, prompt = 4000, PROMPTS[2]
    torch.manual_seed(0)
    found = sample(
        model, [PROMPTS[0]] * 50 + [prompt] * n + [PROMPTS[1]] * 50, temperature=temperature, max_tokens=4,
        ends=[END], pad=PAD,
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
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = model.forward

    def counted(input_ids: torch.Tensor, **more: object) -> object:
        rows.append(len(input_ids))
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(model, "forward", counted)
    torch.manual_seed(0)
    found = sample(model, [PROMPTS[0]] * 200, temperature=0.7, max_tokens=5, ends=[END], pad=PAD)
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


SMALL = {
    "vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "more", "plain"),
    [
        ("llama", {}, True),
        ("qwen2", {}, True),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, False),
        ("falcon", {"alibi": True}, False),
        ("bloom", {"n_layer": 2}, False),
        ("mamba", {}, False),
    ],
)
def test_models_that_need_their_own_way_are_left_to_transformers(
    kind: str, more: dict[str, object], plain: bool
) -> None:
    from transformers import AutoConfig

    given = {**SMALL, **more}
    if kind in ("falcon", "bloom", "mamba"):
        given = {k: v for k, v in given.items() if k not in ("num_key_value_heads", "intermediate_size")}
    if kind == "mamba":
        given.pop("num_attention_heads")
    config = AutoConfig.for_model(kind, **given)
    assert attends_plainly(AutoModelForCausalLM.from_config(config)) is plain


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
def test_an_adapter_changes_nothing_about_that(model: torch.nn.Module) -> None:
    from peft import LoraConfig, get_peft_model

    assert attends_plainly(get_peft_model(model, LoraConfig(target_modules="all-linear")))


def test_between_two_models_each_token_is_drawn_from_their_weighted_geometric_mean(
    model: torch.nn.Module,
) -> None:
    torch.manual_seed(8)
    other = copy.deepcopy(model)
    for weights in other.parameters():
        weights.data += 0.3 * torch.randn_like(weights)
    n, prompt, share = 4000, PROMPTS[2], torch.cat([torch.zeros(4000), torch.full((4000,), 0.6)])
    found = sample(
        model, [prompt] * 2 * n, temperature=1.0, max_tokens=2, ends=[END], pad=PAD, other=other, share=share
    )
    with torch.no_grad():
        rows = torch.tensor([[*prompt, token] for token in range(SIZE)])
        near, far = (
            torch.cat([m(torch.tensor([prompt])).logits[:, -1], m(rows).logits[:, -1]]).log_softmax(-1)
            for m in (model, other)
        )
    for part, weight in ((found[:n], 0.0), (found[n:], 0.6)):
        seconds = torch.zeros(SIZE)
        for program in part:
            if len(program) == 2:
                seconds[program[1]] += 1 / n
        drawn = ((1 - weight) * near + weight * far).softmax(-1)
        first = drawn[0].clone()
        first[END] = 0
        wanted = first @ drawn[1:]
        error = (wanted * (1 - wanted) / n).sqrt()
        assert ((seconds - wanted).abs() <= 5 * error + 1e-4).all(), weight


def test_programs_between_two_models_end_alone_and_keep_their_own_share(model: torch.nn.Module) -> None:
    """Rows leave as they end: the share has to leave with them."""
    torch.manual_seed(8)
    other = copy.deepcopy(model)
    for weights in other.parameters():
        weights.data += 0.3 * torch.randn_like(weights)
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    found = sample(
        model, prompts, temperature=0, max_tokens=40, ends=[END], pad=PAD, other=other,
        share=torch.tensor([0.0, 1.0] * len(PROMPTS)),
    )  # fmt: skip
    assert found[::2] == [generated(model, prompt, 40) for prompt in PROMPTS]
    assert found[1::2] == [generated(other, prompt, 40) for prompt in PROMPTS]
    assert found[::2] != found[1::2] and len({len(program) for program in found}) > 2
