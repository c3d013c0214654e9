"""What the channels that learn by TRL's GRPOTrainer share: our figures in its logs, and how a run halts.

A step that has no rewards is not taken. It ends the run in front of itself, with a checkpoint that is exactly
the one the end of the step before would have written.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import shutdown_event_loop_in_daemon

from trainer.channels.callbacks import CheckpointCallback, Halted, StepRecorder
from trainer.channels.packing import IMPLEMENTATIONS, distinct, distinct_log_probabilities
from trainer.channels.sampling import sample

# Of the backward pass, over prompts whose completions are about as long together.
PASSES = 3


class RecordedTrainer(GRPOTrainer):
    """GRPOTrainer with our figures in its logs, and the seconds it samples.

    sample_s  seconds spent sampling since the step began
    sampler   what draws completions where `sampling.py` can
    """

    recorder: StepRecorder
    sample_s = 0.0
    sampler = staticmethod(sample)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return Path(self.args.output_dir)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's own figures, so that every tracker gets them."""
        if "train_runtime" not in logs:
            logs.update({k: v for k, v in self.recorder.row.items() if isinstance(v, int | float)})
        super().log(logs, start_time)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: it would ask the hub and the trackers about the run."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        scored = super()._generate_and_score_completions(inputs)
        self.recorder.require_rewards()
        return scored

    def save_last_step(self) -> None:
        """Write the checkpoint that the end of the last step would have written, on every rank."""
        self.recorder.chance.restore()
        self._save_checkpoint(self.model_wrapped, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        try:
            return self._sampled(*args, **kwargs)
        finally:
            self.sample_s += time.monotonic() - started

    def _sampled(self, prompt_ids: Any, *more: Any, **named: Any) -> Any:
        """Return completions' token ids and log-probabilities (or None): by `sampling.py` where it can."""
        if not self.draws_plainly():
            return super()._generate_single_turn(prompt_ids, *more, **named)
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model, self._dist.summon_full_params(self.model_wrapped, recurse=False):  # fmt: skip
            return self._drawn(model, prompt_ids), None

    def _drawn(self, model: Any, prompt_ids: Sequence[list[int]], **between: Any) -> list[list[int]]:
        """Return a completion's token ids for each prompt.

        between  `other` and `share`, as `sample` takes them
        """
        return self.sampler(
            model, prompt_ids, temperature=self.temperature, max_tokens=self.max_completion_length,
            ends=self.eos_token_ids, pad=self.processing_class.pad_token_id, **between,
        )  # fmt: skip

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *more: Any,
        compute_entropy: bool = False, compute_aux_loss: bool = False, **named: Any,
    ) -> Any:  # fmt: skip
        """Compute each prompt once for its completions, and what is the same once, where that can be."""
        if compute_aux_loss or any(isinstance(value, torch.Tensor) for value in (*more, *named.values())):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *more, compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss, **named,
            )  # fmt: skip
        if takes_any_mask(self.accelerator.unwrap_model(self.model)):
            # Ranks have to pass the model as often as one another.
            passes = PASSES if self.accelerator.num_processes == 1 else 1
            with self.accelerator.autocast():
                found = distinct_log_probabilities(
                    model, input_ids, attention_mask, logits_to_keep, dtype=self.model.dtype,
                    entropy=compute_entropy, passes=passes,
                )  # fmt: skip
            return *found, None
        ids, mask, back = distinct(input_ids, attention_mask)
        logps, entropies, _ = super()._get_per_token_logps_and_entropies(
            model, ids, mask, logits_to_keep, *more, compute_entropy=compute_entropy, **named
        )
        return logps[back], None if entropies is None else entropies[back], None

    def draws_plainly(self) -> bool:
        """Whether completions are drawn by temperature alone, in this process, from a plain model."""
        args = self.args
        changed = args.top_p != 1 or args.top_k or args.min_p or args.repetition_penalty != 1
        elsewhere = self.use_vllm or self.use_transformers_continuous_batching or self.tools
        other = changed or elsewhere or args.generation_kwargs or args.cache_implementation
        return not other and attends_plainly(self.accelerator.unwrap_model(self.model))


def attends_plainly(model: Any) -> bool:
    """Whether each layer keeps its keys, and sees what is not masked, at the positions it is told."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = model.config.get_text_config(decoder=True)
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    told = "position_ids" in inspect.signature(base.forward).parameters
    odd = getattr(config, "alibi", False) or getattr(base, "_is_stateful", False) or config.is_encoder_decoder
    return layers == {"full_attention"} and told and not odd


def takes_any_mask(model: Any) -> bool:
    """Whether attention, as it is computed here, takes a mask of any form."""
    return attends_plainly(model) and model.config._attn_implementation in IMPLEMENTATIONS


@dataclass(frozen=True)
class Ended:
    """How a run ended. code is 0, 1, or 128 + the signal."""

    code: int
    reason: str
    summary: dict[str, Any] | None


def train_or_halt(trainer: RecordedTrainer, checkpoints: CheckpointCallback, checkpoint: Path | None) -> None:
    """Train to the end, or to a step that cannot be taken: the last checkpoint lies in front of it.

    checkpoint  where to resume from; None starts at step 0
    """
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Halted as halted:
        trainer.recorder.reason = str(halted)
        if trainer.state.global_step > checkpoints.saved:
            trainer.save_last_step()
        trainer.control = trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


def close(trainer: RecordedTrainer, reward: Any) -> None:
    """Close the reward's clients (`aclose`), and the event loop that TRL leaves open."""
    asyncio.run_coroutine_threadsafe(reward.aclose(), trainer.async_loop).result()
    atexit.unregister(shutdown_event_loop_in_daemon)
    shutdown_event_loop_in_daemon(trainer.async_loop_thread, trainer.async_loop)
    trainer.async_loop.close()
