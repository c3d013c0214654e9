"""What happens around a step of a program run: records, evaluations by epoch, and the reasons to stop."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from shared.errors import NoAnswer
from trainer.channels.program.heldout import Evaluation, evaluate
from trainer.channels.program.policy import Policy
from trainer.channels.program.record import RENAMED, episode_rows, live_line, step_row
from trainer.channels.text.callbacks import NO_ANSWER, _everywhere, replace_folder, say
from trainer.config_program import ProgramConfig
from trainer.runs import Run

if TYPE_CHECKING:
    from trainer.channels.program.reinforce import ProgramTrainer


class Recorder(TrainerCallback):
    """Write metrics and episodes, and end a run that gets no answers or has had its time.

    reason   why the run was ended early, with a hint; empty while it goes on
    seconds  where the time went
    """

    def __init__(self, trainer: ProgramTrainer, run: Run | None) -> None:
        self.trainer, self.config, self.reward, self.run = trainer, trainer.config, trainer.reward, run
        self.outages, self.reason, self.row = 0, "", dict[str, Any]()
        self.seconds = {"train": 0.0, "sandbox": 0.0}
        self._started = time.monotonic()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.monotonic()
        self.trainer.sample_s = 0.0

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget the gradient of a step without answers: it is zero, but momentum would move the weights."""
        if all(not batch.rollouts for batch in _everywhere(self.reward.taken)):
            for parameter in self.trainer.model.parameters():
                parameter.grad = None

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        batches, step = _everywhere(self.reward.take()), state.global_step
        row = step_row(batches, self.reward.sequences, self.config.batch_size * self.config.samples)
        row["epoch"] = state.epoch
        row["time/step_s"] = time.monotonic() - self._started
        row["time/sample_s"] = self.trainer.sample_s
        self.seconds["sandbox"] += row["time/sandbox_s"]
        self.seconds["train"] += row["time/step_s"] - row["time/sandbox_s"]
        self.row = row
        if self.run is not None:
            self.run.append("episodes.jsonl", episode_rows(step, batches))
        self._watch(row)
        limit = self.config.max_seconds
        if self.reason or (limit is not None and sum(self.seconds.values()) >= limit):
            control.should_training_stop = control.should_save = True

    def _watch(self, row: dict[str, Any]) -> None:
        self.outages = self.outages + 1 if row["none_fraction"] > NO_ANSWER else 0
        faults = [str(fault) for fault in _everywhere([self.reward.fault]) if fault is not None]
        if faults:
            self.reason = faults[0]
        elif self.outages >= self.config.max_outages:
            self.reason = (
                f"the sandbox gave no answer for {self.outages} steps of {self.config.deadline_s:g} s each; "
                "look at its log (`psuedoptimal doctor`)"
            )

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:  # fmt: skip
        if self.run is None or not logs or "train_runtime" in logs:
            return
        theirs = {ours: logs[name] for name, ours in RENAMED.items() if name in logs}
        theirs.setdefault("policy_loss", theirs.get("loss"))
        self.run.append("metrics.jsonl", [{"step": state.global_step, **self.row, **theirs}])
        if state.global_step % self.config.logging_steps == 0 or state.global_step == 1:
            say(live_line(state.global_step, state.max_steps, self.row))

    def state(self) -> dict[str, Any]:
        """Return what must survive a resume."""
        return {"seconds": self.seconds}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.seconds = dict(state["seconds"])


class HeldOutCallback(TrainerCallback):
    """Evaluate on the validation sequences every eval_freq epochs; keep the best in checkpoints/best.

    The best is the one with the fewest bits, failed sequences paid for as they are.
    """

    def __init__(
        self, trainer: ProgramTrainer, config: ProgramConfig, policy: Policy,
        sequences: list[tuple[int, ...]], run: Run | None, epoch_steps: int,
    ) -> None:  # fmt: skip
        self.trainer, self.config, self.policy, self.run = trainer, config, policy, run
        self.sequences, self.every = sequences, max(1, round(epoch_steps * config.eval_freq))
        self.seconds = 0.0
        found = run.read_json("checkpoints/best/best.json") if run else None
        self.best = Evaluation(**found) if found else None
        self._last = -1

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self.look(0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.every == 0 or last:
            self.look(state.global_step)

    def look(self, step: int) -> None:
        """Evaluate, and save the weights if they are the best so far. An outage skips one look."""
        started, keep = time.monotonic(), False
        if self.run is not None and step != self._last:
            keep = self._evaluated(self.run, step)
        self._last = step
        if any(_everywhere([keep])):
            folder = self.trainer.checkpoints / "best.partial"
            self.trainer.save_model(str(folder), _internal_call=True)
            if self.run is not None and self.best is not None:
                self.policy.tokenizer.save_pretrained(folder)
                (folder / "best.json").write_text(json.dumps(self.best._asdict()), encoding="utf-8")
                replace_folder(folder, self.run.best)
        self.trainer.accelerator.wait_for_everyone()
        self.seconds += time.monotonic() - started

    def _evaluated(self, run: Run, step: int) -> bool:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        try:
            found = evaluate(
                self.policy._replace(model=model), self.sequences, self.config, step=step, split="validation"
            )
        except NoAnswer as error:
            say(f"step {step}: no held-out evaluation, the sandbox is away: {error}")
            return False
        new = found.evaluation
        run.append("heldout.jsonl", found.rows)
        run.append("evaluations.jsonl", [new._asdict()])
        keep = self.best is None or new.bits_per_sequence < self.best.bits_per_sequence
        self.best = new if keep else self.best
        say(
            f"held-out at step {step}: solved {new.accuracy:.3f}  rate {new.compression_rate:.3f}  "
            f"bits {new.bits_per_sequence:.1f}" + ("  (best)" if keep else "")
        )
        return keep
