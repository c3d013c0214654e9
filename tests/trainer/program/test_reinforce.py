"""The estimator against the truth: the policy gradient by enumerating every program of a toy problem.

The toy: programs of two lines, each line one of three; a program that makes the sequence earns 1 less its
length. The policy is a real, tiny language model; nothing is sampled, every pair of programs is weighed by
its probability, so that the estimator's expectation is computed exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.channels.grpo import close
from trainer.channels.program.credit import line_advantages, lines_of_tokens, returns
from trainer.channels.program.environment import Rollout, Rules
from trainer.channels.program.policy import Policy
from trainer.channels.program.reinforce import ProgramTrainer, by_length, token_advantages, trimmed
from trainer.channels.program.reward_function import Batch, ProgramReward
from trainer.channels.program.trainer import _trainer
from trainer.channels.text.student import precision, quiet_libraries
from trainer.config import resolve
from trainer.config_program import ProgramConfig
from trainer.starter.sequences_build import Recipe, new_model
from trainer.starter.sequences_tokenizer import make_tokenizer

LINES = ("a\n", "b\n", "c\n")
PROMPT = 0
TOKENS = (1, 2, 3)
# A program's reward if it is right: what is left of the constant after its length; 0 if it is wrong.
REWARDS = {(1, 2): 0.9, (3, 3): 0.5, (2, 1): 0.7}


def policy() -> LlamaForCausalLM:
    torch.manual_seed(3)
    shape = LlamaConfig(vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False)  # fmt: skip
    model = LlamaForCausalLM(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.double().eval()


def line_log_probabilities(model: Any) -> dict[tuple[int, int], torch.Tensor]:
    """Return each program's two line log-probabilities, of the three lines there are."""
    found = {}
    for program in product(TOKENS, repeat=2):
        logits = model(input_ids=torch.tensor([[PROMPT, *program]])).logits[0, :2, 1:]
        logs = torch.log_softmax(logits, -1)
        found[program] = torch.stack([logs[k, token - 1] for k, token in enumerate(program)])
    return found


def line_gradients(model: Any) -> dict[tuple[int, int], torch.Tensor]:
    """Return the gradients of each program's two line log-probabilities, [2, parameters]."""
    return {
        program: torch.stack([flat(model, value) for value in own])
        for program, own in line_log_probabilities(model).items()
    }


def flat(model: Any, value: torch.Tensor) -> torch.Tensor:
    parameters = list(model.parameters())
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([
        (torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)
    ])  # fmt: skip


def probabilities(model: Any) -> dict[tuple[int, int], float]:
    return {program: own.sum().exp().item() for program, own in line_log_probabilities(model).items()}


def true_gradient(model: Any, gamma: float) -> torch.Tensor:
    """Sum over all programs of probability x line return x gradient of the line's log-probability."""
    gradients, likely = line_gradients(model), probabilities(model)
    return sum(
        likely[program] * torch.tensor(returns(REWARDS.get(program, 0.0), 2, gamma)).double() @ own
        for program, own in gradients.items()
    )


def estimates(
    model: Any, gamma: float, baseline: Any, more: float = 0.0
) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield the estimator's gradient for every pair of programs, and how likely the pair is."""
    gradients, likely = line_gradients(model), probabilities(model)
    for pair in product(gradients, repeat=2):
        rewards = [more + REWARDS.get(program, 0.0) for program in pair]
        credit = line_advantages(rewards, [2, 2], gamma=gamma, baseline=baseline)
        found = sum(torch.tensor(own).double() @ gradients[p] for p, own in zip(pair, credit, strict=True))
        yield likely[pair[0]] * likely[pair[1]], found / 2


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("baseline", ["leave_one_out", "none"])
def test_the_estimators_expectation_is_the_gradient_by_enumeration(gamma: float, baseline: Any) -> None:
    model = policy()
    expected = sum(weight * gradient for weight, gradient in estimates(model, gamma, baseline))
    truth = true_gradient(model, gamma)
    assert truth.norm() > 1e-3
    torch.testing.assert_close(expected, truth, rtol=1e-4, atol=1e-7)


def test_with_gamma_1_that_is_the_gradient_of_the_expected_reward() -> None:
    model = policy()
    logs = line_log_probabilities(model)
    reward = sum(own.sum().exp() * REWARDS.get(program, 0.0) for program, own in logs.items())
    torch.testing.assert_close(true_gradient(model, 1.0), flat(model, reward), rtol=1e-4, atol=1e-7)


def test_following_it_finds_the_known_optimum() -> None:
    model = policy()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        gradient, place = true_gradient(model, 1.0), 0
        for parameter in model.parameters():
            parameter.grad = -gradient[place : place + parameter.numel()].view_as(parameter)
            place += parameter.numel()
        optimiser.step()
    likely = probabilities(model)
    assert max(likely, key=lambda program: likely[program]) == (1, 2) and likely[1, 2] > 0.9


def test_the_baseline_takes_variance_away() -> None:
    model, variance = policy(), {}
    for baseline in ("leave_one_out", "none"):
        found = list(estimates(model, 1.0, baseline, more=1.0))
        mean = sum(weight * gradient for weight, gradient in found)
        variance[baseline] = sum(weight * float(((g - mean) ** 2).sum()) for weight, g in found)
    assert variance["leave_one_out"] < 0.5 * variance["none"]


def test_a_length_penalty_changes_the_advantages() -> None:
    free = [Rules(length_penalty=0.0).reward(True, bits, 1.0) for bits in (100, 200)]
    paid = [Rules(length_penalty=0.1).reward(True, bits, 1.0) for bits in (100, 200)]
    assert line_advantages(free, [2, 2], gamma=1.0) == [[0.0, 0.0], [0.0, 0.0]]
    assert line_advantages(paid, [2, 2], gamma=1.0) == [[10.0, 10.0], [-10.0, -10.0]]


def test_a_reward_by_the_byte_is_what_is_saved() -> None:
    rules = Rules(reward_constant=10.0, reward_per_byte=0.8, length_penalty=0.1)
    assert rules.reward(True, 100, 1.0, 64) == pytest.approx(10 + (8 * 64 - 100) / 10)
    assert rules.reward(False, 100, 0.5, 64) == rules.reward(True, 900, 1.0, 64) == 0


def test_a_wrong_program_never_gets_a_positive_advantage() -> None:
    generator = torch.Generator().manual_seed(1)
    rules = Rules(length_penalty=0.2)
    for _ in range(2000):
        size = int(torch.randint(2, 9, (1,), generator=generator))
        solved = torch.rand(size, generator=generator) < 0.5
        bits = torch.randint(1, 1200, (size,), generator=generator).tolist()
        steps = torch.randint(0, 9, (size,), generator=generator).tolist()
        rewards = [rules.reward(bool(s), b, 0.5) for s, b in zip(solved, bits, strict=True)]
        gamma = float(torch.rand(1, generator=generator)) * 0.5 + 0.5
        credit = line_advantages(rewards, steps, gamma=gamma)
        assert all(value <= 1e-9 for own, s in zip(credit, solved, strict=True) if not s for value in own)
        assert [len(own) for own in credit] == [max(n, 1) for n in steps]


def test_returns_are_discounted_by_lines_and_keep_their_scale() -> None:
    assert returns(8.0, 3, 0.5) == [2.0, 4.0, 8.0]
    credit = line_advantages([8.0, 0.0], [3, 1], gamma=0.5)
    assert credit == [[2.0, 4.0, 8.0], [-2.0]]
    with pytest.raises(ValueError, match="two programs"):
        line_advantages([1.0], [1], gamma=1.0)


class Words(NamedTuple):
    """A tokenizer that is its list of pieces."""

    pieces: tuple[str, ...]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids)


def test_a_token_belongs_to_the_line_it_begins_in() -> None:
    words = Words(("a", " = 1", "\nb", ")\n\n", "<end>"))
    ids = [0, 1, 2, 1, 3, 0, 4]
    assert lines_of_tokens(ids, words.decode) == [0, 0, 0, 1, 1, 3, 3]
    assert lines_of_tokens([], words.decode) == []


def test_tokens_that_only_together_make_a_line_end_are_counted_too() -> None:
    def decode(ids: list[int]) -> str:
        return "\n".join("x" for _ in ids)

    assert lines_of_tokens([5, 6, 7], decode) == [0, 0, 1]


def test_nothing_after_a_success_is_credited_and_all_of_a_failure_is() -> None:
    won = Rollout("a\nb\n", 2, "solved", 10, 1.0, 1.0)
    lost = Rollout("a\nb\n", 2, "wrong", 10, 0.0, 0.0)
    batch = Batch([0, 0], [won, lost], advantages=[[0.5, 1.0], [-0.5, -1.0]])
    advantages, played = token_advantages(batch, [[0, 0, 1, 2, 2], [0, 1, 2]], (2, 6))
    assert advantages.tolist() == [[0.5, 0.5, 1.0, 0, 0, 0], [-0.5, -1.0, -1.0, 0, 0, 0]]
    assert played.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]


def test_sorting_and_trimming_a_batch_lose_nothing() -> None:
    """Twelve rows of six prompts in three parts, shuffled as TRL shuffles them."""
    torch.manual_seed(0)
    mask = (torch.arange(9) < torch.randint(1, 7, (12, 1))).long()
    shown = (torch.arange(5) >= torch.randint(1, 4, (6, 1))).long().repeat_interleave(2, 0)
    prompts = torch.randint(1, 99, (6, 5)).repeat_interleave(2, 0)
    programs, advantages = torch.randint(1, 99, (12, 9)), torch.rand(12, 9)
    parts = []
    for rows in torch.randperm(12).view(3, 4):
        parts.append({
            "prompt_ids": (prompts * shown)[rows], "prompt_mask": shown[rows],
            "completion_ids": (programs * mask)[rows], "completion_mask": mask[rows],
            "advantages": (advantages * mask)[rows], "num_items_in_batch": torch.tensor(7.0), "other": None,
        })  # fmt: skip
    ordered = by_length(parts)

    def together(some: list[dict[str, Any]], *keys: str) -> list[tuple[float, ...]]:
        return [tuple(torch.cat([part[key][i] for key in keys]).tolist()) for part in some for i in range(4)]

    everything = ("prompt_ids", "completion_ids", "completion_mask", "advantages")
    assert sorted(together(ordered, *everything)) == sorted(together(parts, *everything))
    of = together(ordered, "prompt_ids", "prompt_mask")
    assert of[::2] == of[1::2] and len(set(of)) == 6
    tokens = [part["completion_mask"].sum(1) + part["prompt_mask"].sum(1) for part in ordered]
    lengths = torch.cat(tokens).view(-1, 2).sum(1).tolist()
    assert lengths == sorted(lengths)
    for part in ordered:
        short = trimmed(part)
        width = int(part["completion_mask"].sum(1).max())
        assert short["completion_ids"].shape == short["advantages"].shape == (4, width)
        assert short["prompt_ids"].shape[1] == int(part["prompt_mask"].sum(1).max())
        assert float(short["advantages"].sum()) == pytest.approx(float(part["advantages"].sum()))


def test_trls_loss_with_our_advantages_is_the_mean_over_programs(tmp_path: Any) -> None:
    """Its loss on a batch made by hand is minus advantage x log-probability, summed by program."""
    from datasets import Dataset
    from trl import GRPOConfig

    from trainer.channels.text.student import quiet_libraries
    from trainer.starter.sequences_build import Recipe, new_model
    from trainer.starter.sequences_tokenizer import make_tokenizer

    quiet_libraries()
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = new_model(Recipe(width=16, inner=16, layers=1, heads=2), tokenizer)
    settings = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=16,
        loss_type="dr_grpo", scale_rewards="none", beta=0.0, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, temperature=1.0,
    )  # fmt: skip
    trainer = ProgramTrainer(
        model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=settings,
        train_dataset=Dataset.from_dict({"prompt": ["7"]}), processing_class=tokenizer,
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    ids = torch.randint(5, 300, (4, 10))
    # Two programs for one prompt, in one row; and two prompts with one each.
    ids[1, :4] = ids[0, :4]
    mask = (torch.arange(6) < torch.tensor([[6], [3], [1], [4]])).long()
    advantages = torch.randn(4, 6) * mask
    inputs = {
        "prompt_ids": ids[:, :4], "prompt_mask": torch.ones(4, 4, dtype=torch.long),
        "completion_ids": ids[:, 4:], "completion_mask": mask,
        "advantages": advantages * trainer.max_completion_length,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = trainer._compute_loss(model, inputs)
    logs = torch.log_softmax(model(input_ids=ids).logits[:, 3:-1], -1)
    own = logs.gather(-1, ids[:, 4:, None])[..., 0]
    by_hand = -(advantages * own * mask).sum() / 4
    first, second = (torch.autograd.grad(value, list(model.parameters())) for value in (loss, by_hand))
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [8, 512])
def test_the_kl_is_that_of_whole_programs_however_many_tokens_they_may_have(
    max_tokens: int, tmp_path: Path
) -> None:
    quiet_libraries()
    flags = {"device": "cpu", "kl_coef": 0.03, "max_tokens": max_tokens, "gradient_checkpointing": False}
    config = resolve(ProgramConfig, [], {**flags, "lora": {"r": 2, "dropout": 0.0}, "batch_size": 1})
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = new_model(Recipe(width=16, inner=16, layers=1, heads=1), tokenizer)
    written = Policy(model, tokenizer, precision(config.models))
    reward = ProgramReward(config, [(7, 7, 7)])
    trainer, _ = _trainer(config, written, reward, tmp_path, None)
    try:
        trainer.current_gradient_accumulation_steps = 1
        ids = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(1))
        played = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
        shown, reference = torch.ones(2, 3, dtype=torch.long), torch.full((2, 6), -2.0)
        loss = trainer._compute_loss(trainer.model, {
            "prompt_ids": ids[:, :3], "prompt_mask": shown, "completion_ids": ids[:, 3:],
            "completion_mask": played, "advantages": torch.zeros(2, 6), "ref_per_token_logps": reference,
        })  # fmt: skip
        logits = trainer.model(input_ids=ids).logits[:, 2:-1]
        own = torch.log_softmax(logits, -1).gather(2, ids[:, 3:, None])[..., 0]
        kl = ((reference - own).exp() - (reference - own) - 1) * played
        torch.testing.assert_close(loss, 0.03 * kl.sum(1).mean(), rtol=1e-4, atol=1e-6)
    finally:
        close(trainer, reward)
