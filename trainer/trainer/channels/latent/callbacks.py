"""What happens around a step of a latent run: records, the clock, and how far each part has moved."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from trainer.channels.callbacks import StepRecorder, everywhere, say
from trainer.channels.chance import Chance
from trainer.channels.latent.engine import LatentTrainer, terms
from trainer.runs import Run

# Enough of a weight to see it move, at no cost to memory.
_WATCHED = 4096
RENAMED = {"grad_norm": "grad_norm", "learning_rate": "learning_rate"}


class Moved:
    """How far each part of the student has moved: |w - w0| / |w0| on some of its weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._began = model, self._now(model)

    def figures(self) -> dict[str, float]:
        """Return the change by part: base, start, h2e, queries, projector, head, bop, eop."""
        found: dict[str, tuple[float, float]] = {}
        for name, value in self._now(self._model).items():
            began, part = self._began[name], name.partition(".")[0]
            moved, size = found.get(part, (0.0, 0.0))
            found[part] = (
                moved + (value - began).square().sum().item(),
                size + began.square().sum().item(),
            )
        return {f"moved/{part}": (moved / max(size, 1e-12)) ** 0.5 for part, (moved, size) in found.items()}

    @staticmethod
    def _now(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {
            name: weight.detach().flatten()[:_WATCHED].float().cpu().clone()
            for name, weight in model.named_parameters()
        }


class Recorder(StepRecorder):
    """Write metrics; its `row` is the step's terms as every tracker gets them."""

    trainer: LatentTrainer  # type: ignore[assignment]

    def __init__(self, trainer: LatentTrainer, run: Run | None, seconds: dict[str, float]) -> None:
        self.stopping = threading.Event()
        super().__init__(trainer, trainer, run)  # type: ignore[arg-type]
        self.moved = Moved(trainer.model)
        self.seconds = {"train": 0.0, "teacher": 0.0, "evaluate": 0.0, **seconds}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.chance = Chance.now()
        trainer, spent = self.trainer, time.monotonic() - self._started
        self.row = {**terms(everywhere(trainer.replies)), "guided": trainer.guided, "epoch": state.epoch}
        self.row |= {"time/step_s": spent, "time/teacher_s": trainer.teacher_s}
        self.seconds["train"] += spent - trainer.teacher_s
        self.seconds["teacher"] += trainer.teacher_s
        trainer.replies, trainer.teacher_s = [], 0.0

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        if logs and "eval_loss" not in logs and "train_loss" not in logs:
            self.row |= self.moved.figures()
            super().on_log(args, state, control, logs, **more)

    def theirs(self, logs: dict[str, Any]) -> dict[str, Any]:
        return {ours: logs[name] for name, ours in RENAMED.items() if name in logs}

    def live_line(self, step: int, steps: int) -> str:
        row = self.row
        shown = "  ".join(f"{name} {row[name]:.4f}" for name in ("loss", "ce", "kl", "align") if name in row)
        return f"step {step}/{steps}  {shown}  {row['time/step_s']:.2f} s"


class Evaluations(TrainerCallback):
    """Write each evaluation to evaluations.jsonl and say whether it was the best so far. None is left out."""

    def __init__(self, recorder: Recorder, run: Run | None) -> None:
        self._recorder, self._run = recorder, run

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._recorder.trainer.go_on()

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        figures = {
            name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")
        }
        self._recorder.seconds["evaluate"] += figures.get("runtime", 0.0)
        best = state.best_metric is None or figures["loss"] < state.best_metric
        if self._run is not None:
            row = {"step": state.global_step, "split": "validation", **figures}
            # A run that was killed after it made up for one makes up for it again.
            seen = any(old["step"] == row["step"] for old in self._run.rows("evaluations.jsonl"))
            self._run.append("evaluations.jsonl", [] if seen else [row])
            shown = "  ".join(
                f"{name} {figures[name]:.4f}" for name in ("loss", "ce", "kl", "align") if name in figures
            )
            say(f"held-out at step {state.global_step}: {shown}" + ("  (best)" if best else ""))
