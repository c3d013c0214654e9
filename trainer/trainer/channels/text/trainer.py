"""Train the text channel: TRL's GRPOTrainer, our reward and records. Never decodes, never runs a program."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig

from shared.errors import NoAnswer, RequestRefused
from trainer.channels.callbacks import CheckpointCallback, Interrupts, say
from trainer.channels.grpo import Ended, close, train_or_halt
from trainer.channels.processes import join, patience_s
from trainer.channels.text.anchors import TextTrainer, untrained_of
from trainer.channels.text.callbacks import HeldOutTasks, Recorder
from trainer.channels.text.controllers import controller_of
from trainer.channels.text.heldout import Evaluation, evaluate, kept, summary_of
from trainer.channels.text.prompts import encoder_messages
from trainer.channels.text.reward_function import CompressionReward
from trainer.channels.text.student import Policy, Precision, load_policy, precision, quiet_libraries
from trainer.config import ConfigError
from trainer.config_text import TextConfig
from trainer.measure.evaluation_file import put_aside
from trainer.measure.folder import checkpoint_name
from trainer.measure.students import Student, load_student
from trainer.runs import Run, read_state, resume_command
from trainer.tasks.sources import load_tasks
from trainer.tasks.task import Task


def train(config: TextConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    """Train, evaluate on the test tasks, and write summary.json.

    run         the run folder; None on every rank but the first
    folder      its path, on every rank
    checkpoint  where to resume from; None starts at step 0
    raises      ConfigError, NoAnswer before the first step, DiskFull
    """
    quiet_libraries()
    if config.threads:
        torch.set_num_threads(config.threads)
    chosen = precision(config)
    patience = patience_s(config.deadline_s, config.max_outages)
    processes = join(cpu=chosen.device == "cpu", patience=patience)
    tasks, validation, test = (load_tasks(config, split) for split in ("train", "validation", "test"))
    policy = load_policy(config, chosen, processes.local_process_index)
    untrained = _untrained(config, policy, test, run)
    processes.wait_for_everyone()
    reward = CompressionReward(config, tasks, policy.tokenizer, policy.end_ids, controller_of(config))
    trainer = _trainer(config, policy, chosen, reward, folder)
    recorder = trainer.recorder = Recorder(trainer, reward, run)
    heldout = HeldOutTasks(trainer, config, validation, run, reward.stopping)
    interrupts = Interrupts(reward.stopping, config.generation_steps)
    checkpoints = CheckpointCallback(trainer, recorder, run)
    for callback in (recorder, checkpoints, heldout, interrupts):
        trainer.add_callback(callback)
    if checkpoint is not None:
        recorder.load(read_state(checkpoint))
    try:
        with interrupts:
            train_or_halt(trainer, checkpoints, checkpoint)
    finally:
        close(trainer, reward)
    step, again = trainer.state.global_step, resume_command("text", folder, processes.num_processes)
    if interrupts.received is not None and step < trainer.state.max_steps:
        return Ended(128 + interrupts.received, f"stopped at step {step}; go on with `{again}`", None)
    if recorder.reason:
        return Ended(1, f"{recorder.reason}; stopped at step {step}; go on with `{again}`", None)
    try:
        found = _summarise(config, run, test, untrained, heldout.best, recorder.seconds) if run else None
        return Ended(0, "", found)
    except (NoAnswer, RequestRefused) as error:
        return Ended(1, f"trained, but not measured: {error}; go on with `{again}`", None)


def _untrained(
    config: TextConfig, policy: Policy, test: Sequence[Task], run: Run | None
) -> Evaluation | None:
    """Measure the student on the test tasks before its first step; a resumed run reads what that gave."""
    if run is None:
        return None
    for row in run.rows("evaluations.jsonl"):
        if row["step"] == 0 and row["split"] == "test":
            return Evaluation(**row)
    model = policy.model
    if not getattr(model, "is_loaded_in_4bit", False):
        model = model.to(precision(config).device)
    found = evaluate(Student("untrained", model, policy.tokenizer), test, config, step=0, split="test")
    run.append("evaluations.jsonl", [found.evaluation._asdict()])
    say(f"untrained: pass {found.evaluation.pass_rate:.3f}  tokens {found.evaluation.tokens:.1f} (test)")
    return found.evaluation


def _summarise(
    config: TextConfig,
    run: Run,
    test: Sequence[Task],
    untrained: Evaluation | None,
    best: Evaluation | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Measure the best checkpoint on the test tasks and write summary.json."""
    assert untrained is not None and best is not None
    say(kept(best, config.target_pass_rate))
    started = time.monotonic()
    student = load_student(run.best, base=config.student_source, precision=precision(config))
    found = evaluate(student, test, config, step=best.step, split="test").evaluation
    seconds["evaluate"] += time.monotonic() - started
    summary = summary_of(found, untrained, config, seconds)
    put_aside(run.folder, checkpoint_name(run.best))
    run.write_json("summary.json", summary)
    return summary


def _trainer(
    config: TextConfig, policy: Policy, chosen: Precision, reward: CompressionReward, folder: Path
) -> TextTrainer:
    data, steps = _data(config, reward.tasks, PartialState().num_processes)
    # Before TRL gets the model: it gives it a forward that a copy would share.
    untrained = untrained_of(policy.model) if config.anchor_rate and not policy.adapter else None
    if "tensorboard" in config.trackers:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    trainer = TextTrainer(
        model=policy.model, reward_funcs=reward, args=grpo_config(config, chosen, folder, steps),
        train_dataset=data, processing_class=policy.tokenizer, peft_config=policy.adapter,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.reward = reward
    if config.anchor_rate:
        trainer.anchor(config.anchor_rate, config.generation_steps, untrained)
    return trainer


def _data(config: TextConfig, tasks: Sequence[Task], processes: int) -> tuple[Dataset, int]:
    """Return every prompt of the run in its order, and the number of steps.

    One pass over a list that is shuffled here, epoch by epoch: TRL's own sampler shuffles a later epoch
    differently after a resume.

    raises  ConfigError if the batch does not hold whole groups
    """
    micro = config.steps_per_generation or config.gradient_accumulation_steps
    groups, per_step = config.groups(processes), config.gradient_accumulation_steps
    if config.max_steps:
        batches = -(-config.max_steps * per_step // (micro * config.num_iterations))
        steps = config.max_steps
    else:
        batches = max(1, int(config.num_epochs * len(tasks)) // groups)
        steps = max(1, batches * micro * config.num_iterations // per_step)
    rng, order = np.random.default_rng(config.seed), np.empty(0, dtype=np.int64)
    while len(order) < batches * groups:
        order = np.concatenate([order, rng.permutation(len(tasks))])
    rows = Dataset.from_dict(
        {"prompt": [encoder_messages(task) for task in tasks], "task": list(range(len(tasks)))}
    )
    return rows.select(order[: batches * groups].tolist()), steps


def grpo_config(config: TextConfig, chosen: Precision, folder: Path, steps: int) -> GRPOConfig:
    """Return TRL's settings. Raises ConfigError for a name in `trl` that it does not know."""
    cuda = chosen.device == "cuda"
    ours: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints"), "run_name": folder.name, "project": "psuedoptimal",
        "per_device_train_batch_size": config.batch_size, "max_steps": steps,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "learning_rate": config.learning_rate, "lr_scheduler_type": config.lr_scheduler,
        "warmup_steps": config.warmup if config.warmup < 1 else int(config.warmup),
        "weight_decay": config.weight_decay, "adam_beta2": config.adam_beta2,
        "max_grad_norm": config.max_grad_norm, "seed": config.seed,
        "num_generations": config.num_generations, "max_completion_length": config.max_completion_length,
        "temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k,
        "loss_type": config.loss_type, "scale_rewards": config.scale_rewards, "beta": config.beta,
        "entropy_coef": config.entropy_coef, "epsilon": config.epsilon, "epsilon_high": config.epsilon_high,
        "num_iterations": config.num_iterations, "steps_per_generation": config.steps_per_generation,
        "mask_truncated_completions": config.mask_truncated,
        "gradient_checkpointing": config.gradient_checkpointing, "use_cpu": chosen.device == "cpu",
        "bf16": cuda and chosen.compute == torch.bfloat16, "fp16": cuda and chosen.compute == torch.float16,
        "logging_steps": 1, "disable_tqdm": True, "log_completions": False,
        "report_to": config.trackers or "none", "save_strategy": "steps", "save_steps": config.save_steps,
        "save_total_limit": config.save_total_limit,
        "shuffle_dataset": False, "ddp_find_unused_parameters": False,
        "remove_unused_columns": False, "dataloader_pin_memory": cuda,
        "ddp_timeout": int(patience_s(config.deadline_s, config.max_outages)),
    }  # fmt: skip
    try:
        return GRPOConfig(**(ours | config.trl))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses these settings: {error}") from error
