"""transformers' Trainer with the teacher's loss. Decodes nothing; the teacher is no module of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from shared.errors import InvalidRequest, NoAnswer
from shared.wire_latents import LatentLossReply
from trainer.channels.callbacks import CheckpointCallback, Halted, StepRecorder, everywhere, say
from trainer.channels.chance import Chance
from trainer.channels.latent.batches import at_fault, told
from trainer.channels.latent.mixing import mixed
from trainer.channels.latent.student import Spoken
from trainer.channels.latent.teacher import Teacher
from trainer.channels.latent.vectors import from_wire, teacher_loss, to_wire
from trainer.config_latent import LatentConfig
from trainer.tasks.conversations import Conversation


class LatentTrainer(Trainer):
    """A Trainer whose loss comes from the frozen teacher, with its gradient.

    replies    what the teacher said since the last step's end, this process's, without its gradients
    evaluated  the same of the evaluation at hand, of no conversation twice
    teacher_s  seconds waited for it since then
    """

    recorder: StepRecorder

    def __init__(self, *args: Any, config: LatentConfig, teacher: Teacher, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.config, self.teacher = config, teacher
        self.replies: list[LatentLossReply] = []
        self.evaluated: list[LatentLossReply] = []
        self.teacher_s = self.sample_s = 0.0

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return Path(self.args.output_dir)

    @property
    def guided(self) -> float:
        """What KL and alignment are multiplied by at this step."""
        done = self.state.global_step / max(1, self.state.max_steps)
        return {"constant": 1.0, "rise": done, "fall": 1.0 - done}[self.config.guide_schedule]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # fmt: skip
        """Return the teacher's loss of a batch; its gradient flows into the student.

        raises  Halted, on every rank, if any rank's teacher gives no answer
        """
        spoken: Spoken = model(inputs["input_ids"], inputs["attention_mask"], inputs["data"])
        rows: Sequence[Conversation] = inputs["conversations"].rows
        if not model.training:
            rows = rows[: self._first_time(len(rows))]
        started, missing, reply = time.monotonic(), "", None
        try:
            if self.config.plan_mixing and model.training:
                spoken = spoken._replace(latents=self._mixed(spoken, rows))
            reply = self._asked(spoken, rows, gradient=torch.is_grad_enabled()) if rows else None
        except NoAnswer as error:
            missing = str(error)
        except InvalidRequest as error:
            raise at_fault(error, rows, self.config.data_path) from error
        if self.accelerator.num_processes > 1:
            missing = next(filter(None, everywhere([missing])), "")
        if missing:
            raise Halted(missing)
        self.teacher_s += time.monotonic() - started if model.training else 0.0
        if reply is None:
            return torch.zeros((), device=spoken.latents.device)
        (self.replies if model.training else self.evaluated).append(
            reply.model_copy(update=dict.fromkeys(("gradient", "bop_gradient", "eop_gradient")))
        )
        if not torch.is_grad_enabled():
            return torch.tensor(reply.loss, device=spoken.latents.device)
        return teacher_loss(spoken.latents, spoken.bop, spoken.eop, reply)

    def _first_time(self, rows: int) -> int:
        """Return how many of a batch's rows, its first, are evaluated for the first time.

        accelerate fills up the last round of the processes with rows from the beginning.
        """
        loaded = self.accelerator.gradient_state
        if not loaded.end_of_dataloader or loaded.remainder <= 0:
            return rows
        return min(rows, max(0, loaded.remainder - self.accelerator.process_index * rows))

    def _mixed(self, spoken: Spoken, rows: Sequence[Conversation]) -> Tensor:
        plans = [row.plan for row in rows if row.plan]
        embedded = iter([from_wire(each) for each in self.teacher.embed(plans).embeddings] if plans else [])
        share = self.config.plan_mixing * (1 - self.state.global_step / max(1, self.state.max_steps))
        given = [next(embedded) if row.plan else None for row in rows]
        return mixed(spoken.latents, given, spoken.eop, share)

    def _asked(self, spoken: Spoken, rows: Sequence[Conversation], *, gradient: bool) -> LatentLossReply:
        config, guided = self.config, self.guided if gradient else 1.0
        # At weight 0 stored states would cost the teacher two more passes for figures alone.
        data = spoken.data_latents if config.kl_weight or config.align_weight else None
        return self.teacher.loss(
            to_wire(spoken.latents[: len(rows)].float()),
            [told(row, config.layout) for row in rows],
            layout=config.layout, bop=to_wire(spoken.bop), eop=to_wire(spoken.eop),
            data_latents=None if data is None else to_wire(data[: len(rows)].float()),
            ce_weight=config.ce_weight, kl_weight=guided * config.kl_weight,
            align_weight=guided * config.align_weight, kl_temperature=config.kl_temperature,
            window=config.window, max_length=config.model_max_length, gradient=gradient,
        )  # fmt: skip

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """Return the loss alone: there are no predictions to gather."""
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate: the terms over all processes' rows are the figures, and chance is left as it was."""
        self.evaluated, chance = [], Chance.now()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        chance.restore()
        found = terms(everywhere(self.evaluated))
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's own figures, so that every tracker gets them."""
        if "eval_loss" not in logs and "train_runtime" not in logs:
            logs.update({k: v for k, v in self.recorder.row.items() if isinstance(v, int | float)})
        super().log(logs, start_time)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: it would ask the hub and the trackers about the run."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        # The rows stand in the run's order already, the same after a resume.
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    def go_on(self) -> None:
        """Find the best checkpoint where the run lies now, and take the evaluation an outage has prevented.

        raises  Halted, on every rank, if it is prevented again
        """
        state = self.state
        if state.best_global_step is not None:
            folder = self.checkpoints / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(folder)
            if not folder.is_dir():
                if state.is_world_process_zero:
                    say(f"{folder}: the best so far is not there any more; the best of what comes is kept")
                state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        # It is restored with the checkpoint, and every evaluation that is taken ends it.
        if self.control.should_evaluate and self._determine_best_metric(self._evaluate(None, None), None):
            state.best_model_checkpoint = str(self.checkpoints / f"checkpoint-{state.global_step}")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save what is the best, and what is the last, between two checkpoints too."""
        best: bool = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best or self.control.should_training_stop
        return best

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers asks behind a step only: a run that has ended early would go on for one.
        if not any(map(_is_at_its_end, self.callback_handler.callbacks)):
            super()._run_epoch(*args, **kwargs)

    def save_last_step(self) -> None:
        """Write the checkpoint that the end of the last step would have written, on every rank."""
        self.recorder.chance.restore()
        self._save_checkpoint(self.model_wrapped, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)


def _is_at_its_end(callback: TrainerCallback) -> bool:
    """Whether so many evaluations were without progress that they have ended the run."""
    return (
        isinstance(callback, EarlyStoppingCallback)
        and callback.early_stopping_patience_counter >= callback.early_stopping_patience
    )


def terms(replies: list[LatentLossReply]) -> dict[str, float]:
    """Return the mean of every term over the conversations; a term that none has is absent.

    A batch counts by its conversations: a short last one no more than its share.
    """
    found: dict[str, float] = {}
    for name in ("loss", "ce", "kl", "align"):
        met = [(value, len(each.rows)) for each in replies if (value := getattr(each, name)) is not None]
        if met:
            found[name] = sum(value * rows for value, rows in met) / sum(rows for _, rows in met)
    found["window_tokens"] = sum(reply.window_tokens for reply in replies)
    found["weighted_tokens"] = sum(reply.weighted or 0 for reply in replies)
    found["cut_tokens"] = sum(row.cut for reply in replies for row in reply.rows)
    return found


__all__ = ["CheckpointCallback", "LatentTrainer", "terms"]
