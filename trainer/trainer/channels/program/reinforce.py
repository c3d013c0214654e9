"""REINFORCE by lines on TRL's GRPOTrainer: its sampling, batches, PEFT, clipping and logs; our credit.

Built on GRPOTrainer and not on transformers' Trainer, because all that is particular here is which number
stands before each token's log-probability, and that class takes a [B, T] of them. One update for each sample
makes its ratio 1, so what is left of its loss is REINFORCE's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trainer.channels.grpo import RecordedTrainer
from trainer.channels.packing import distinct
from trainer.channels.program.credit import line_advantages, lines_of_tokens
from trainer.channels.program.environment import Rollout
from trainer.channels.program.reward_function import Batch, ProgramReward
from trainer.channels.program.screening import Screening
from trainer.config_program import ProgramConfig

# Of advantages, which are at most 1, in doubles.
ROUNDING = 1e-9


class ProgramTrainer(RecordedTrainer):
    """GRPOTrainer whose advantages are by line."""

    config: ProgramConfig
    reward: ProgramReward
    screening: Screening | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Sample and judge as GRPO does, then credit each line; what comes after a success is no action."""
        if self.screening is not None:
            model = self.accelerator.unwrap_model(self.model)
            inputs = self.screening.rows(self.state.global_step, inputs, model)
        out = super()._generate_and_score_completions(inputs)
        batch: Batch = self.reward.taken[-1]
        ids, mask = out["completion_ids"], out["completion_mask"]
        batch.advantages = credited(batch.rollouts, self.config)
        rows = [tuple(row[: int(kept.sum())].tolist()) for row, kept in zip(ids, mask, strict=True)]
        lines = {row: lines_of_tokens(row, self._text) for row in set(rows)}
        advantages, played = token_advantages(batch, [lines[row] for row in rows], ids.shape)
        if not self._entropy_bonus_enabled and not self.beta:
            # What has no advantage, but for rounding, has no part in the gradient either: not to be computed
            # (and not in the logged entropy).
            played = played * (advantages.abs() > ROUNDING).any(1, keepdim=True)
        # TRL divides the sum over tokens by this; what is left is the mean over programs.
        out["advantages"] = (advantages * self.max_completion_length).to(ids.device)
        out["completion_mask"] = mask * played.to(mask.device, mask.dtype)
        return out

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Put groups of like length into one backward pass: what is padded is computed all the same."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or self._buffered_inputs is None:
            return inputs
        self._buffered_inputs = by_length(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        return super()._compute_loss(model, trimmed(inputs))

    def _text(self, ids: list[int]) -> str:
        return str(
            self.processing_class.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


def by_length(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same rows in as many parts of the same size, those of one prompt side by side, the prompts
    with the fewest tokens first. TRL has shuffled them, and what is alike is computed once within a part.
    """
    ids, shown, played = (
        torch.cat([part[key] for part in parts]) for key in ("prompt_ids", "prompt_mask", "completion_mask")
    )
    *_, prompt = distinct(ids, shown)
    tokens = shown.new_zeros(int(prompt.max()) + 1).index_add(0, prompt, shown.sum(1) + played.sum(1))
    order = torch.argsort(tokens[prompt] * len(tokens) + prompt, stable=True)
    size = len(parts[0]["completion_mask"])
    sorted_parts: list[dict[str, Any]] = [dict(part) for part in parts]
    for key, value in parts[0].items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            continue
        rows = torch.cat([part[key] for part in parts])[order]
        for i, part in enumerate(sorted_parts):
            part[key] = rows[i * size : (i + 1) * size]
    return sorted_parts


def trimmed(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a batch without the columns that are padding in every row."""
    played = inputs["completion_mask"].any(0).nonzero()
    shown = inputs["prompt_mask"].any(0).nonzero()
    end, start = int(played[-1]) + 1 if len(played) else 1, int(shown[0]) if len(shown) else 0
    width, prompt = inputs["completion_mask"].shape[1], inputs["prompt_mask"].shape[1]
    found = dict(inputs)
    for key, value in inputs.items():
        if not isinstance(value, torch.Tensor) or value.ndim != 2:
            continue
        if key in ("prompt_ids", "prompt_mask"):
            found[key] = value[:, start:prompt]
        elif value.shape[1] == width:
            found[key] = value[:, :end]
    return found


def credited(rollouts: Sequence[Rollout], config: ProgramConfig) -> list[list[float]]:
    """Return the advantage of each line of each rollout, in units of the reward constant.

    rollouts  [N] with the programs for one sequence side by side
    returns   [N][steps]
    """
    found: list[list[float]] = []
    for start in range(0, len(rollouts), config.samples):
        group = rollouts[start : start + config.samples]
        rewards = [rollout.reward / config.reward_constant for rollout in group]
        steps = [rollout.steps for rollout in group]
        found += line_advantages(rewards, steps, gamma=config.gamma, baseline=config.baseline)
    return found


def token_advantages(
    batch: Batch, lines: Sequence[Sequence[int]], shape: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's advantage, its line's, and whether it was played at all.

    lines    [B][T] the line each token begins in
    shape    (B, T) of the padded batch
    returns  advantages [B, T] and a mask [B, T]. After a success nothing is played; of a failure everything
             is, its end and what follows the last line that counted included, with that line's advantage
    """
    advantages, played = torch.zeros(tuple(shape)), torch.zeros(tuple(shape))
    for row, (rollout, of_lines, at) in enumerate(zip(batch.rollouts, batch.advantages, lines, strict=True)):
        for t, line in enumerate(at):
            if rollout.solved and line >= rollout.steps:
                break
            played[row, t] = 1.0
            advantages[row, t] = of_lines[min(line, len(of_lines) - 1)]
    return advantages, played
