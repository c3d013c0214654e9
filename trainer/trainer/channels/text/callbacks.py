"""What happens around a step of a text run: records, the controller, and evaluations on validation tasks."""

from __future__ import annotations

import threading
import time
from typing import Any

from transformers import TrainerControl, TrainerState

from trainer.channels.callbacks import HeldOutCallback, StepRecorder, everywhere, say
from trainer.channels.chance import Chance
from trainer.channels.grpo import RecordedTrainer
from trainer.channels.text.heldout import Evaluation, HeldOut, better, evaluate, read_best
from trainer.channels.text.record import RENAMED, episode_rows, examples, live_line, step_row
from trainer.channels.text.reward_function import CompressionReward
from trainer.config_text import TextConfig
from trainer.measure.students import Student
from trainer.runs import Run
from trainer.tasks.task import Task


class Recorder(StepRecorder):
    """Write metrics and episodes, and move the reward's controller."""

    reward: CompressionReward

    def __init__(self, trainer: RecordedTrainer, reward: CompressionReward, run: Run | None) -> None:
        super().__init__(trainer, reward, run)
        self.tasks = {task.task_id: task for task in reward.tasks}
        self.seconds = {"train": 0.0, "decode": 0.0, "sandbox": 0.0, "evaluate": 0.0}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Here, not where a step begins: a new epoch draws in between, and does so again after a resume.
        self.chance = Chance.now()
        batches, step = everywhere(self.reward.take()), state.global_step
        row = step_row(batches)
        controller = self.reward.controller
        if row.get("pass_rate") is not None and controller is not None:
            row[f"reward/{controller.name}"] = controller.value
            controller.update(row["pass_rate"])
        self._time(row)
        self.row = row
        if self.run is not None:
            self.run.append("episodes.jsonl", episode_rows(step, batches))
            if batches and self.config.examples and step % self.config.example_steps == 0:
                own = [e for batch in batches for e in batch.episodes if not e.anchor]
                say(examples(step, own, self.tasks, self.config.examples))

    def _time(self, row: dict[str, Any]) -> None:
        row["time/step_s"] = time.monotonic() - self._started
        decode, sandbox = row.get("time/decode_s", 0.0), row.get("time/sandbox_s", 0.0)
        row["time/sample_s"] = self.trainer.sample_s
        row["time/train_s"] = row["time/step_s"] - decode - sandbox
        for name, value in (("train", row["time/train_s"]), ("decode", decode), ("sandbox", sandbox)):
            self.seconds[name] += value

    def theirs(self, logs: dict[str, Any]) -> dict[str, Any]:
        return {ours: logs[name] for name, ours in RENAMED.items() if name in logs}

    def live_line(self, step: int, steps: int) -> str:
        return live_line(step, steps, self.row)

    def state(self) -> dict[str, Any]:
        """Return what must survive a resume."""
        controller = self.reward.controller
        return {"controller": controller.state() if controller else {}, **super().state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        if self.reward.controller is not None:
            self.reward.controller.load(state["controller"])
        super().load(state)


class HeldOutTasks(HeldOutCallback):
    """The text channel's: one greedy message for each validation task."""

    def __init__(
        self, trainer: RecordedTrainer, config: TextConfig, tasks: list[Task], run: Run | None,
        stopping: threading.Event,
    ) -> None:  # fmt: skip
        super().__init__(trainer, run, stopping)
        self.config, self.tasks, self.every = config, tasks, config.eval_steps
        self.cycle = config.generation_steps
        self.best = read_best(run, Evaluation) if run else None

    def evaluated(self, step: int) -> HeldOut:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        student = Student("student", model, self.trainer.processing_class)
        return evaluate(
            student, self.tasks, self.config, step=step, split="validation", stopping=self.stopping.is_set
        )

    def is_better(self, new: Evaluation) -> bool:
        return better(new, self.best, self.config.target_pass_rate)

    def record(self, run: Run, found: HeldOut, best: bool) -> None:
        new = found.evaluation
        run.append("heldout.jsonl", [{"step": new.step, **record._asdict()} for record in found.records])
        run.append("evaluations.jsonl", [new._asdict()])
        say(
            f"validation at step {new.step}: pass {new.pass_rate:.3f}  tokens {new.tokens:.1f}"
            + ("  (best)" if best else "")
        )
