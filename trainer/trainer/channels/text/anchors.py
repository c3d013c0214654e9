"""Anchors: in some steps, one message of each group is drawn between the student as it is and as it was.

A student that has stopped saying something cannot find back to it: where none of a group's messages passes,
all fare alike and nothing is learnt. As it was before its first step it still said everything. An anchor
counts where no message of the student's own passed, and nowhere else: it is no part of the pass rate, and
elsewhere its reward is its group's mean, which moves no advantage (divided by the group's deviation, as
`scale_rewards: group` has it, they grow a little).

All groups have theirs in the same steps, since one long message makes a step as slow as many do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from trainer.channels.grpo import RecordedTrainer
from trainer.channels.text.reward_function import CompressionReward
from trainer.config import ConfigError

# Of the untrained student in an anchor, drawn anew for each. With less, an anchor drops what the student
# drops; with more, it is as long as an untrained message. Of the starter's groups without a passing message,
# two anchors in five pass, at two fifths of its length.
SHARE = (0.5, 0.7)


class TextTrainer(RecordedTrainer):
    """GRPOTrainer whose groups may hold an anchor: their last message, in a share `rate` of the steps.

    rate    0 without anchors
    cycle   steps that one sampled batch lasts
    """

    reward: CompressionReward
    rate, cycle = 0.0, 1
    untrained: Callable[..., Any] | None = None

    def anchor(self, rate: float, cycle: int, untrained: torch.nn.Module | None) -> None:
        """Draw anchors from now on.

        untrained  the student before its first step; None for one with an adapter, which is without it
        raises     ConfigError where messages are not drawn by temperature alone, from a plain model
        """
        if not self.draws_plainly():
            raise ConfigError(
                f"anchor_rate={rate:g}: anchors are drawn by temperature alone, in this process, from a "
                "student each of whose tokens sees all before it; set anchor_rate=0 for this one"
            )
        own = self.args.generation_batch_size // self.accelerator.num_processes
        if own % self.num_generations:
            raise ConfigError(
                f"anchor_rate={rate:g}: each process samples {own} messages, which are no whole groups of "
                f"num_generations={self.num_generations}; set anchor_rate=0, or a batch_size that holds some"
            )
        self.rate, self.cycle = rate, cycle
        self.untrained = self._unadapted if untrained is None else untrained.to(self.accelerator.device)

    def _unadapted(self, **inputs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        with model.disable_adapter():
            return model(**inputs)

    def _drawn(self, model: Any, prompt_ids: Sequence[list[int]], **between: Any) -> list[list[int]]:
        places = self._places(len(prompt_ids))
        self.reward.anchors = frozenset(places)
        if not places:
            return super()._drawn(model, prompt_ids, **between)
        own = super()._drawn(
            model, [prompt for place, prompt in enumerate(prompt_ids) if place not in self.reward.anchors]
        )
        drawn = super()._drawn(
            model, [prompt_ids[place] for place in places],
            other=self.untrained, share=torch.empty(len(places)).uniform_(*SHARE),
        )  # fmt: skip
        rest, anchors = iter(own), iter(drawn)
        return [next(anchors if place in self.reward.anchors else rest) for place in range(len(prompt_ids))]

    def _places(self, n: int) -> list[int]:
        """Return which of this process's n messages are anchors: none, or each group's last."""
        batch, first = self.state.global_step // self.cycle, self.accelerator.process_index * n
        if int((batch + 1) * self.rate) == int(batch * self.rate):
            return []
        return [place for place in range(n) if (first + place + 1) % self.num_generations == 0]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Leave out of the backward pass what its group learnt without."""
        out = super()._generate_and_score_completions(inputs)
        mask = out["completion_mask"]
        for place in self.reward.anchors:
            if self.reward.idle[place]:
                mask[place] = 0
        return out


def untrained_of(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of the model as it is now, that is not trained."""
    return copy.deepcopy(model).requires_grad_(False).eval()
