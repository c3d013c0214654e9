"""What happens around a step of a program run: records, the clock, and evaluations by epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerControl, TrainerState

from trainer.channels.callbacks import HeldOutCallback, StepRecorder, everywhere, say
from trainer.channels.chance import Chance
from trainer.channels.grpo import RecordedTrainer
from trainer.channels.program.heldout import Evaluation, HeldOut, evaluate
from trainer.channels.program.policy import Policy
from trainer.channels.program.record import RENAMED, episode_rows, live_line, step_row
from trainer.channels.program.reward_function import ProgramReward
from trainer.channels.text.heldout import read_best
from trainer.config_program import ProgramConfig
from trainer.runs import Run


class Recorder(StepRecorder):
    """Write metrics and episodes, and end a run that has had its time."""

    reward: ProgramReward

    def __init__(self, trainer: RecordedTrainer, reward: ProgramReward, run: Run | None) -> None:
        super().__init__(trainer, reward, run)
        self.seconds = {"train": 0.0, "sandbox": 0.0, "screen": 0.0, "evaluate": 0.0}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.chance = Chance.now()
        batches, step = everywhere(self.reward.take()), state.global_step
        row = step_row(batches, self.reward.sequences)
        row["epoch"] = state.epoch
        row["time/step_s"] = time.monotonic() - self._started
        row["time/sample_s"] = self.trainer.sample_s
        self.seconds["sandbox"] += row["time/sandbox_s"]
        screening = self.trainer.screening
        if screening is not None:
            row["time/screen_s"], screening.seconds = screening.seconds, 0.0
            self.seconds["screen"] += row["time/screen_s"]
        self.seconds["train"] += row["time/step_s"] - row["time/sandbox_s"] - row.get("time/screen_s", 0.0)
        self.row = row
        if self.run is not None:
            self.run.append("episodes.jsonl", episode_rows(step, batches))
        # The first process's clock, as it is the one that a checkpoint keeps.
        if everywhere([is_over(self.config, self.seconds)])[0]:
            if step < state.max_steps:
                say(over_after(self.config, self.seconds, step, state.max_steps))
            control.should_training_stop = control.should_save = True

    def theirs(self, logs: dict[str, Any]) -> dict[str, Any]:
        found = {ours: logs[name] for name, ours in RENAMED.items() if name in logs}
        found.setdefault("policy_loss", found.get("loss"))
        return found

    def live_line(self, step: int, steps: int) -> str:
        return live_line(step, steps, self.row)

    def shortened(self, rest_s: float) -> float:
        limit = self.config.max_seconds
        return rest_s if limit is None else min(rest_s, limit - sum(trained(self.seconds).values()))


def trained(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return where the time went that max_seconds is about: without the evaluations'."""
    return {name: took for name, took in seconds.items() if name != "evaluate"}


def is_over(config: ProgramConfig, seconds: Mapping[str, float]) -> bool:
    """Whether a run has had its max_seconds."""
    return config.max_seconds is not None and sum(trained(seconds).values()) >= config.max_seconds


def over_after(config: ProgramConfig, seconds: Mapping[str, float], step: int, steps: int) -> str:
    """Return what the person watching reads when they are over."""
    spent = ", ".join(f"{name} {took:.0f} s" for name, took in trained(seconds).items() if took)
    return f"max_seconds={config.max_seconds:g} are over after step {step} of {steps}: {spent}"


class HeldOutSequences(HeldOutCallback):
    """One greedy program for each validation sequence, every eval_freq epochs.

    The best is the one with the fewest bits where every sequence is sent by itself: what its programs save is
    then the same whatever the others are.
    """

    first_counts = True

    def __init__(
        self, trainer: RecordedTrainer, config: ProgramConfig, policy: Policy,
        sequences: list[tuple[int, ...]], run: Run | None, stopping: threading.Event, epoch_steps: int,
    ) -> None:  # fmt: skip
        super().__init__(trainer, run, stopping)
        self.config, self.policy, self.sequences = config, policy, sequences
        self.every = max(1, round(epoch_steps * config.eval_freq))
        self.best = read_best(run, Evaluation) if run else None

    def evaluated(self, step: int) -> HeldOut:
        policy = self.policy._replace(model=self.trainer.accelerator.unwrap_model(self.trainer.model))
        return evaluate(
            policy, self.sequences, self.config, step=step, split="validation", stopping=self.stopping.is_set
        )

    def is_better(self, new: Evaluation) -> bool:
        if self.best is None:
            return True
        if new.bits_alone is None or self.best.bits_alone is None:
            return new.bits_per_sequence < self.best.bits_per_sequence
        return new.bits_alone < self.best.bits_alone

    def record(self, run: Run, found: HeldOut, best: bool) -> None:
        new = found.evaluation
        run.append("heldout.jsonl", found.rows)
        run.append("evaluations.jsonl", [new._asdict()])
        say(
            f"validation at step {new.step}: solved {new.accuracy:.3f}  rate {new.compression_rate:.3f}  "
            f"bits {new.bits_per_sequence:.1f}" + ("  (best)" if best else "")
        )
