"""What happens around a step: records, held-out evaluations, checkpoints, and the reasons to stop."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState

from shared.errors import NoAnswer
from trainer.channels.text.heldout import Evaluation, better, evaluate
from trainer.channels.text.record import RENAMED, episode_rows, examples, live_line, step_row
from trainer.channels.text.reward_function import Batch, CompressionReward
from trainer.config_text import TextConfig
from trainer.measure.students import Student
from trainer.runs import Run, mark_complete
from trainer.tasks.task import Task

if TYPE_CHECKING:
    from trainer.channels.text.trainer import TextTrainer

NO_ANSWER = 0.5


def say(text: str) -> None:
    """Tell the person watching."""
    print(text, file=sys.stderr, flush=True)


class Recorder(TrainerCallback):
    """Write metrics and episodes, hold the multiplier, and end a run that gets no answers.

    reason   why the run was ended early, with a hint; empty while it goes on
    fault    whether that reason is an error (exit code 1)
    seconds  where the time went, by room
    """

    def __init__(self, trainer: TextTrainer, reward: CompressionReward, run: Run | None) -> None:
        self.trainer, self.reward, self.run = trainer, reward, run
        self.config, self.tasks = reward.config, {task.task_id: task for task in reward.tasks}
        self.outages, self.reason = 0, ""
        self.row: dict[str, Any] = {}
        self.seconds = {"train": 0.0, "decode": 0.0, "sandbox": 0.0}
        self._started, self._unanswered = time.monotonic(), False

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.monotonic()
        self.trainer.sample_s = 0.0

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget the gradient of a step without answers: it is zero, but momentum would move the weights."""
        batches = _everywhere(self.reward.taken)
        if batches:
            self._unanswered = all(e.reward is None for batch in batches for e in batch.episodes)
        if self._unanswered:
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        batches, step = _everywhere(self.reward.take()), state.global_step
        row = step_row(batches)
        if row.get("pass_rate") is not None and self.config.reward in ("lagrangian", "relative"):
            row["reward/multiplier"] = self.reward.multiplier.value
            self.reward.multiplier.update(row["pass_rate"])
        self._time(row)
        self.row = row
        if self.run is not None:
            self.run.append("episodes.jsonl", episode_rows(step, batches))
            if batches and self.config.examples and step % self.config.example_steps == 0:
                say(
                    examples(step, [e for b in batches for e in b.episodes], self.tasks, self.config.examples)
                )
        self._watch(row)
        if self.reason and step % self.config.generation_steps == 0:
            control.should_training_stop = control.should_save = True

    def _time(self, row: dict[str, Any]) -> None:
        row["time/step_s"] = time.monotonic() - self._started
        decode, sandbox = row.get("time/decode_s", 0.0), row.get("time/sandbox_s", 0.0)
        row["time/sample_s"] = self.trainer.sample_s
        row["time/train_s"] = row["time/step_s"] - decode - sandbox
        for name, value in (("train", row["time/train_s"]), ("decode", decode), ("sandbox", sandbox)):
            self.seconds[name] += value

    def _watch(self, row: dict[str, Any]) -> None:
        """Find a reason to stop; every rank finds the same."""
        if "none_fraction" in row:
            self.outages = self.outages + 1 if row["none_fraction"] > NO_ANSWER else 0
        faults = [str(fault) for fault in _everywhere([self.reward.fault]) if fault is not None]
        if faults:
            self.reason = faults[0]
        elif self.outages >= self.config.max_outages:
            self.reason = (
                f"the services gave no answer for {self.outages} steps of {self.config.deadline_s:g} s each; "
                "look at their logs (`psuedoptimal doctor`)"
            )

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self.run is None or not logs or "train_runtime" in logs:
            return
        theirs = {ours: logs[name] for name, ours in RENAMED.items() if name in logs}
        self.run.append("metrics.jsonl", [{"step": state.global_step, **self.row, **theirs}])
        if state.global_step % self.config.logging_steps == 0 or state.global_step == 1:
            say(live_line(state.global_step, state.max_steps, self.row))

    def state(self) -> dict[str, Any]:
        """Return what must survive a resume."""
        return {"multiplier": self.reward.multiplier.state(), "seconds": self.seconds}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.reward.multiplier.load(state["multiplier"])
        self.seconds = dict(state["seconds"])


class HeldOutCallback(TrainerCallback):
    """Evaluate on the validation tasks every eval_steps, and keep the best weights in checkpoints/best."""

    def __init__(self, trainer: TextTrainer, config: TextConfig, tasks: list[Task], run: Run | None) -> None:
        self.trainer, self.config, self.tasks, self.run = trainer, config, tasks, run
        self.seconds = 0.0
        self.best: Evaluation | None = None
        found = run.read_json("checkpoints/best/best.json") if run else None
        if found:
            self.best = Evaluation(**found)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self.look(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.config.eval_steps == 0 or state.global_step >= state.max_steps:
            self.look(state.global_step)

    def look(self, step: int) -> None:
        """Evaluate, and save the weights if they are the best so far. An outage skips one look."""
        accelerator, started = self.trainer.accelerator, time.monotonic()
        keep = False
        if self.run is not None:
            keep = self._evaluated(step)
        if any(_everywhere([keep])):
            self._save(self.run)
        accelerator.wait_for_everyone()
        self.seconds += time.monotonic() - started

    def _evaluated(self, step: int) -> bool:
        assert self.run is not None
        student = Student(
            "student",
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.trainer.processing_class,
        )
        try:
            found = evaluate(student, self.tasks, self.config, step=step, split="validation")
        except NoAnswer as error:
            say(f"step {step}: no held-out evaluation, a service is away: {error}")
            return False
        new = found.evaluation
        self.run.append("heldout.jsonl", [{"step": step, **record._asdict()} for record in found.records])
        self.run.append("evaluations.jsonl", [new._asdict()])
        keep = step > 0 and better(new, self.best, self.config.target_pass_rate)
        self.best = new if keep else self.best
        say(
            f"held-out at step {step}: pass {new.pass_rate:.3f}  tokens {new.tokens:.1f}"
            + ("  (best)" if keep else "")
        )
        return keep

    def _save(self, run: Run | None) -> None:
        """Replace checkpoints/best by the present weights; a kill leaves the old one or the new one."""
        folder = self.trainer.checkpoints / "best.partial"
        self.trainer.save_model(str(folder), _internal_call=True)
        if run is not None and self.best is not None:
            (folder / "best.json").write_text(json.dumps(self.best._asdict()), encoding="utf-8")
            replace_folder(folder, run.best)


def replace_folder(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`, which is moved aside first: no call replaces a folder."""
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


class CheckpointCallback(TrainerCallback):
    """Mark a checkpoint as whole once every rank has written its part."""

    def __init__(self, trainer: TextTrainer, recorder: Recorder, run: Run | None) -> None:
        self.trainer, self.recorder, self.run = trainer, recorder, run

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()
        if self.run is not None:
            mark_complete(self.run.checkpoints / f"checkpoint-{state.global_step}", self.recorder.state())


class Interrupts(TrainerCallback):
    """Let SIGINT and SIGTERM end the run after the step at hand, with a checkpoint; a second one at once.

    received  the signal's number, or None
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, stopping: threading.Event, cycle: int) -> None:
        self.stopping, self.cycle = stopping, cycle
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        self.stopping.set()
        say(f"{signal.Signals(number).name}: one more step, then a checkpoint; again to stop at once")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.cycle == 0 and any(_everywhere([self.received is not None])):
            control.should_training_stop = control.should_save = True


def _everywhere(local: list[Any]) -> list[Any]:
    """Return the items of all ranks, in their order."""
    gather: Callable[[list[Any]], list[Any]] = gather_object
    return list(gather(local))


__all__ = [
    "Batch",
    "CheckpointCallback",
    "HeldOutCallback",
    "Interrupts",
    "Recorder",
    "replace_folder",
    "say",
]
