"""What happens around a step in every channel: evaluations, checkpoints, and the reasons to stop."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState

from shared.errors import NoAnswer, RequestRefused
from trainer.channels.chance import Chance
from trainer.checkpoints import replace_folder
from trainer.config import ConfigError
from trainer.pace import Pace, duration
from trainer.runs import Run, mark_complete

if TYPE_CHECKING:
    from trainer.channels.grpo import RecordedTrainer


class Halted(RuntimeError):
    """A step or an evaluation cannot be done; raised on every rank, and before any weight is moved."""


def say(text: str) -> None:
    """Tell the person watching."""
    print(text, file=sys.stderr, flush=True)


class StepRecorder(TrainerCallback):
    """What the recorder of every channel has: the step's figures, its clock, and its end without rewards.

    reason   why the run was ended early, with a hint; empty while it goes on
    row      the figures of the last step
    chance   the random states at the end of the last step
    seconds  where the time of the whole run went, by room and for evaluations
    """

    def __init__(self, trainer: RecordedTrainer, reward: Any, run: Run | None) -> None:
        self.trainer, self.reward, self.run, self.config = trainer, reward, run, reward.config
        self.reason = ""
        self.row: dict[str, Any] = {}
        self.seconds: dict[str, float] = {"evaluate": 0.0}
        self.chance = Chance.now()
        self._started = time.monotonic()
        self._pace: Pace | None = None

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.monotonic()
        self._pace = self._pace or Pace("steps", state.max_steps, state.global_step)
        self.trainer.sample_s = 0.0

    def require_rewards(self) -> None:
        """Leave the step if the rewards of any rank did not come. Raises Halted, on every rank."""
        for missing in everywhere([self.reward.missing]):
            if missing:
                raise Halted(missing)

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
        self.run.append("metrics.jsonl", [{"step": state.global_step, **self.row, **self.theirs(logs)}])
        if state.global_step % self.config.logging_steps == 0 or state.global_step == 1:
            say(self.live_line(state.global_step, state.max_steps) + self._left(state.global_step))

    def _left(self, step: int) -> str:
        """Return how long the rest of the run may take, evaluations included; nothing if nothing is left."""
        if self._pace is None:
            return ""
        self._pace.done = step
        rest = self.shortened(self._pace.rest_s())
        return f"  about {duration(rest)} left" if rest > 0 else ""

    def shortened(self, rest_s: float) -> float:
        """Return the seconds left of so many that the steps would take, where something else ends the run."""
        return rest_s

    def theirs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return TRL's figures of the step under our names."""
        raise NotImplementedError

    def live_line(self, step: int, steps: int) -> str:
        """Return what the person watching reads of the step."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return what must survive a resume."""
        return {"seconds": self.seconds}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.seconds |= state["seconds"]


class HeldOutCallback(TrainerCallback):
    """Evaluate on the validation split every so often, and keep the best weights in checkpoints/best.

    None is left out: an outage ends the run, and the run that goes on begins with the evaluation.

    every  steps between two evaluations
    cycle  steps of a sampled batch: within one, no checkpoint resumes exactly
    best   the evaluation that chose the best weights, if there is one yet
    """

    every: int
    cycle = 1
    best: Any = None
    first_counts = False

    def __init__(self, trainer: RecordedTrainer, run: Run | None, stopping: threading.Event) -> None:
        self.trainer, self.run, self.stopping = trainer, run, stopping

    def evaluated(self, step: int) -> Any:
        """Return the evaluation, of which `look` knows `.evaluation`. Raises NoAnswer in an outage."""
        raise NotImplementedError

    def is_better(self, new: Any) -> bool:
        """Whether the weights of an evaluation are to be kept in the place of the best ones."""
        raise NotImplementedError

    def record(self, run: Run, found: Any, best: bool) -> None:
        """Note an evaluation; last of all in evaluations.jsonl, which says that it was done."""
        raise NotImplementedError

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        missing = self.run is not None and not self._is_done(state.global_step)
        due = self._is_due(state, control)
        if due and any(everywhere([missing])) and (reason := self.look(state.global_step)):
            raise Halted(reason)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._is_due(state, control):
            return
        reason = self.look(state.global_step)
        if reason:
            self.trainer.recorder.reason = reason
            control.should_training_stop = True
            control.should_save = state.global_step % self.cycle == 0

    def _is_due(self, state: TrainerState, control: TrainerControl) -> bool:
        last = state.global_step >= state.max_steps or control.should_training_stop
        return last or state.global_step % self.every == 0

    def _is_done(self, step: int) -> bool:
        """Whether this run's evaluation of the step is there, and the best weights that were chosen by it."""
        assert self.run is not None
        rows = self.run.rows("evaluations.jsonl")
        seen = any(row["step"] == step and row["split"] == "validation" for row in rows)
        return seen and (self.best is not None or (step == 0 and not self.first_counts))

    def look(self, step: int) -> str:
        """Evaluate, and save the weights if they are the best so far.

        returns  on every rank, why there was no evaluation; empty if there was one
        """
        started = time.monotonic()
        found, keep, reason = None, False, ""
        if self.run is not None:
            try:
                found = self.evaluated(step)
            except (NoAnswer, RequestRefused, ConfigError) as error:
                reason = f"no held-out evaluation of step {step}: {error}"
        if found is not None and (step > 0 or self.first_counts) and self.is_better(found.evaluation):
            self.best, keep = found.evaluation, True
        if any(everywhere([keep])):
            self._save(self.run)
        if self.run is not None and found is not None:
            self.record(self.run, found, keep)
        self.trainer.accelerator.wait_for_everyone()
        self.trainer.recorder.seconds["evaluate"] += time.monotonic() - started
        return next(filter(None, everywhere([reason])), "")

    def _save(self, run: Run | None) -> None:
        """Replace checkpoints/best by the present weights; a kill leaves the old one or the new one."""
        folder = self.trainer.checkpoints / "best.partial"
        self.trainer.save_model(str(folder), _internal_call=True)
        if run is not None and self.best is not None:
            (folder / "best.json").write_text(json.dumps(self.best._asdict()), encoding="utf-8")
            replace_folder(folder, run.best)


class CheckpointCallback(TrainerCallback):
    """Mark a checkpoint as whole once every rank has written its part.

    saved  the step of the last one, or the one this run goes on from
    """

    def __init__(self, trainer: RecordedTrainer, recorder: StepRecorder, run: Run | None) -> None:
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
        if state.global_step % self.cycle == 0 and any(everywhere([self.received is not None])):
            control.should_training_stop = control.should_save = True


def everywhere(local: list[Any]) -> list[Any]:
    """Return the items of all ranks, in their order."""
    gather: Callable[[list[Any]], list[Any]] = gather_object
    return list(gather(local))
