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
from trainer.channels.text.chance import Chance
from trainer.channels.text.heldout import HeldOut, better, evaluate, read_best
from trainer.channels.text.record import RENAMED, episode_rows, examples, live_line, step_row
from trainer.channels.text.reward_function import Batch, CompressionReward
from trainer.config_text import TextConfig
from trainer.measure.students import Student
from trainer.runs import Run, mark_complete
from trainer.tasks.task import Task

if TYPE_CHECKING:
    from trainer.channels.text.trainer import TextTrainer

# Of the program channel: more programs without a verdict than this share are a step without an answer.
NO_ANSWER = 0.5


class Halted(RuntimeError):
    """A step or an evaluation cannot be done; raised on every rank, and before any weight is moved."""


def say(text: str) -> None:
    """Tell the person watching."""
    print(text, file=sys.stderr, flush=True)


class Recorder(TrainerCallback):
    """Write metrics and episodes, hold the multiplier, and end a run that gets no answers.

    reason   why the run was ended early, with a hint; empty while it goes on
    chance   the random states at the end of the last step
    seconds  where the time went, by room
    """

    def __init__(self, trainer: TextTrainer, reward: CompressionReward, run: Run | None) -> None:
        self.trainer, self.reward, self.run = trainer, reward, run
        self.config, self.tasks = reward.config, {task.task_id: task for task in reward.tasks}
        self.reason = ""
        self.row: dict[str, Any] = {}
        self.seconds = {"train": 0.0, "decode": 0.0, "sandbox": 0.0}
        self.chance = Chance.now()
        self._started = time.monotonic()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.monotonic()
        self.trainer.sample_s = 0.0

    def require_rewards(self) -> None:
        """Leave the step if the rewards of any rank did not come. Raises Halted, on every rank."""
        for missing in _everywhere([self.reward.missing]):
            if missing:
                raise Halted(missing)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Here, not where a step begins: a new epoch draws in between, and does so again after a resume.
        self.chance = Chance.now()
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

    def _time(self, row: dict[str, Any]) -> None:
        row["time/step_s"] = time.monotonic() - self._started
        decode, sandbox = row.get("time/decode_s", 0.0), row.get("time/sandbox_s", 0.0)
        row["time/sample_s"] = self.trainer.sample_s
        row["time/train_s"] = row["time/step_s"] - decode - sandbox
        for name, value in (("train", row["time/train_s"]), ("decode", decode), ("sandbox", sandbox)):
            self.seconds[name] += value

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
    """Evaluate on the validation tasks every eval_steps, and keep the best weights in checkpoints/best.

    None is left out: an outage ends the run, and the run that goes on begins with the evaluation.
    """

    def __init__(
        self, trainer: TextTrainer, config: TextConfig, tasks: list[Task], run: Run | None,
        stopping: threading.Event,
    ) -> None:  # fmt: skip
        self.trainer, self.config, self.tasks, self.run = trainer, config, tasks, run
        self.stopping, self.seconds = stopping, 0.0
        self.best = read_best(run) if run else None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        missing = self.run is not None and not self._is_done(state.global_step)
        if self._is_due(state) and any(_everywhere([missing])) and (reason := self.look(state.global_step)):
            raise Halted(reason)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._is_due(state):
            return
        self.trainer.recorder.reason = self.look(state.global_step)
        if self.trainer.recorder.reason:
            control.should_training_stop = True
            # Within a sampled batch no checkpoint resumes exactly: the last one that does is gone on from.
            control.should_save = state.global_step % self.config.generation_steps == 0

    def _is_due(self, state: TrainerState) -> bool:
        return state.global_step % self.config.eval_steps == 0 or state.global_step >= state.max_steps

    def _is_done(self, step: int) -> bool:
        """Whether this run's evaluation of the step is there, and the best weights that were chosen by it."""
        assert self.run is not None
        rows = self.run.rows("evaluations.jsonl")
        seen = any(row["step"] == step and row["split"] == "validation" for row in rows)
        return seen and (step == 0 or self.best is not None)

    def look(self, step: int) -> str:
        """Evaluate, and save the weights if they are the best so far.

        returns  on every rank, why there was no evaluation; empty if there was one
        """
        started = time.monotonic()
        found, keep, reason = None, False, ""
        if self.run is not None:
            try:
                found = self._evaluated(step)
            except NoAnswer as error:
                reason = f"no held-out evaluation of step {step}: {error}"
        if (
            found is not None
            and step > 0
            and better(found.evaluation, self.best, self.config.target_pass_rate)
        ):
            self.best, keep = found.evaluation, True
        if any(_everywhere([keep])):
            self._save(self.run)
        if self.run is not None and found is not None:
            self._record(self.run, found, keep)
        self.trainer.accelerator.wait_for_everyone()
        self.seconds += time.monotonic() - started
        return next(filter(None, _everywhere([reason])), "")

    def _evaluated(self, step: int) -> HeldOut:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        student = Student("student", model, self.trainer.processing_class)
        return evaluate(
            student, self.tasks, self.config, step=step, split="validation", stopping=self.stopping.is_set
        )

    def _record(self, run: Run, found: HeldOut, best: bool) -> None:
        """Note an evaluation; last of all in evaluations.jsonl, which says that it was done."""
        new = found.evaluation
        run.append("heldout.jsonl", [{"step": new.step, **record._asdict()} for record in found.records])
        run.append("evaluations.jsonl", [new._asdict()])
        say(
            f"held-out at step {new.step}: pass {new.pass_rate:.3f}  tokens {new.tokens:.1f}"
            + ("  (best)" if best else "")
        )

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
    """Mark a checkpoint as whole once every rank has written its part.

    saved  the step of the last one, or the one this run goes on from
    """

    def __init__(self, trainer: TextTrainer, recorder: Recorder, run: Run | None) -> None:
        self.trainer, self.recorder, self.run = trainer, recorder, run
        self.saved = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.saved = state.global_step

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()
        if self.run is not None:
            mark_complete(self.run.checkpoints / f"checkpoint-{state.global_step}", self.recorder.state())
        self.saved = state.global_step


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
    "Halted",
    "HeldOutCallback",
    "Interrupts",
    "Recorder",
    "replace_folder",
    "say",
]
