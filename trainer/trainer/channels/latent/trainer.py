"""Train the latent channel: our student and records around transformers' Trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, HfArgumentParser, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from shared.clients import SandboxClient
from shared.clients import run as run_async
from shared.errors import NoAnswer
from trainer.bearer import read_token
from trainer.channels.callbacks import CheckpointCallback, Interrupts
from trainer.channels.grpo import Ended, train_or_halt
from trainer.channels.latent.batches import Collator
from trainer.channels.latent.callbacks import Evaluations, Recorder
from trainer.channels.latent.data import Rows, load_rows
from trainer.channels.latent.engine import LatentTrainer
from trainer.channels.latent.heldout import Measured, Messages, Meter
from trainer.channels.latent.loading import Speaker, load_speaker, trained_speaker
from trainer.channels.latent.teacher import Teacher, open_teacher, read_marks
from trainer.channels.latent.warm_start import warm_start
from trainer.channels.processes import join, patience_s
from trainer.channels.text.exchange import check_generator
from trainer.channels.text.student import quiet_libraries
from trainer.config import CONFIGS, ConfigError
from trainer.config_latent import STARTER, LatentConfig
from trainer.runs import Run, read_state, resume_command

WARM = "warm-start"
# The controls that summary.json is about; `evaluate latent` has all of them.
SUMMARY = {"student": "student", "none": "none", "mismatched": "mismatched", "white noise": "noise"}
# What a checkpoint holds, what is done with it, and how the best one is found: a run stands on it.
FIXED = {
    "save_strategy", "save_only_model", "ignore_data_skip", "resume_from_checkpoint", "eval_strategy",
    "restore_callback_states_from_checkpoint", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "label_names", "remove_unused_columns",
}  # fmt: skip


def train(config: LatentConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    """Train, measure the best student beside its controls, and write summary.json.

    run         the run folder; None on every rank but the first
    folder      its path, on every rank
    checkpoint  where to resume from; None starts at step 0
    raises      ConfigError, NoAnswer before the first step, DiskFull
    """
    quiet_libraries()
    if config.threads:
        torch.set_num_threads(config.threads)
    processes = join(cpu=config.device == "cpu", patience=patience_s(config.deadline_s))
    teacher = open_teacher(config)
    card = _introduce(config, teacher, run)
    rows = load_rows(config, card.width)
    if config.plan_mixing and not any(row.plan for row in rows.train):
        raise ConfigError("plan_mixing: no conversation has a plan; give hidden states with plans, or 0")
    if run is not None and checkpoint is None:
        run.write_json("split.json", rows.split_ids())
    torch.manual_seed(config.seed)
    told = read_marks(config, teacher)
    speaker = load_speaker(config, told)
    collator = Collator(
        speaker.contexts, rows.hidden, config.K, card.width, speaker.tokenizer.pad_token_id or 0
    )
    # A run that goes on begins from the same weights too: `moved/*` is told from them.
    new = checkpoint is None
    seconds = {"warm_start": _warmed(config, speaker, rows, teacher, run if new else None, folder)}
    processes.wait_for_everyone()
    trainer = _trainer(config, speaker, collator, rows, teacher, folder)
    recorder = trainer.recorder = Recorder(trainer, run, seconds)
    interrupts = Interrupts(recorder.stopping, 1)
    checkpoints = CheckpointCallback(trainer, recorder, run)  # type: ignore[arg-type]
    for callback in (recorder, checkpoints, Evaluations(recorder, run), interrupts):
        trainer.add_callback(callback)
    if checkpoint is not None:
        recorder.load(read_state(checkpoint))
    with interrupts:
        train_or_halt(trainer, checkpoints, checkpoint)  # type: ignore[arg-type]
    step, again = trainer.state.global_step, resume_command("latent", folder, processes.num_processes)
    if interrupts.received is not None and step < trainer.state.max_steps:
        return Ended(128 + interrupts.received, f"stopped at step {step}; go on with `{again}`", None)
    if recorder.reason:
        return Ended(1, f"{recorder.reason}; stopped at step {step}; go on with `{again}`", None)
    trainer.save_model(str(folder / "checkpoints" / "best"))
    if run is None:
        return Ended(0, "", None)
    del trainer
    try:
        summary = _summarise(config, run, rows, teacher, told, recorder.seconds, step)
    except NoAnswer as error:
        return Ended(1, f"trained, but not measured: {error}; go on with `{again}`", None)
    return Ended(0, "", summary)


def _introduce(config: LatentConfig, teacher: Teacher, run: Run | None) -> Any:
    """Wait for the services, check who the teacher is, and note it in services.json. Returns its card."""
    card = teacher.card()
    if config.decoder_url and not config.teacher_in_process:
        check_generator(config.teacher_model_name_or_path, card)
    found: dict[str, Any] = {"decoder": card.model_dump(mode="json")}
    if config.data_path == STARTER and config.sandbox_url:
        client = SandboxClient(config.sandbox_url, token=read_token(config.sandbox_token_file))
        found["sandbox"] = run_async(client.capabilities()).model_dump(mode="json")
    if run is not None:
        run.write_json("services.json", found)
    return card


def _warmed(
    config: LatentConfig, speaker: Speaker, rows: Rows, teacher: Teacher, run: Run | None, folder: Path
) -> float:
    """Give the student the weights after the warm start, the same on every rank. Returns seconds.

    run  who warms it up and keeps the weights, the first rank of a new run; None: read what is kept
    """
    if not config.warm_start_steps:
        return 0.0
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    started, file = time.monotonic(), folder / WARM / "model.safetensors"
    if run is not None:
        warm_start(speaker, rows.train, teacher, config)
        file.parent.mkdir(exist_ok=True)
        save_file(speaker.student.state_dict(), file)
    PartialState().wait_for_everyone()
    try:
        speaker.student.load_state_dict(load_file(file, device=speaker.device))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{file}: the student after its warm start cannot be read ({error})") from error
    return time.monotonic() - started


def _trainer(
    config: LatentConfig, speaker: Speaker, collator: Collator, rows: Rows, teacher: Teacher, folder: Path
) -> LatentTrainer:
    per_step = (
        config.per_device_train_batch_size * config.gradient_accumulation_steps * PartialState().num_processes
    )
    steps = config.max_steps
    if steps < 1:
        steps = max(1, math.ceil(config.num_train_epochs * len(rows.train) / per_step))
    rng, order = np.random.default_rng(config.seed), np.empty(0, dtype=np.int64)
    while len(order) < steps * per_step:
        order = np.concatenate([order, rng.permutation(len(rows.train))])
    args = training_arguments(config, folder, steps, device=speaker.device, evaluated=bool(rows.evaluation))
    trainer = LatentTrainer(
        model=speaker.student, args=args, data_collator=collator, config=config, teacher=teacher,
        train_dataset=[rows.train[place] for place in order[: steps * per_step]],
        eval_dataset=rows.evaluation or None, processing_class=speaker.tokenizer,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    if rows.evaluation and config.early_stopping_patience:
        trainer.add_callback(
            EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold)
        )
    return trainer


def training_arguments(
    config: LatentConfig, folder: Path, steps: int, *, device: str, evaluated: bool
) -> TrainingArguments:
    """Return transformers' settings. Raises ConfigError for one that it refuses."""
    ours: dict[str, Any] = {
        name: getattr(config, name)
        for name in (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "learning_rate", "lr_scheduler_type", "weight_decay", "adam_beta2", "max_grad_norm", "bf16",
            "fp16", "save_steps", "save_total_limit", "logging_steps", "seed",
        )
    } | {
        "output_dir": str(folder / "checkpoints"), "max_steps": steps,
        "report_to": config.report_to or "none",
        "run_name": folder.name, "project": "psuedoptimal", "warmup_steps": config.warmup_ratio,
        "deepspeed": str(deepspeed_file(config.deepspeed)) if config.deepspeed else None,
        "use_cpu": device == "cpu", "remove_unused_columns": False, "disable_tqdm": True,
        "logging_first_step": True, "ddp_find_unused_parameters": False, "label_names": [],
        "dataloader_pin_memory": device == "cuda", "ddp_timeout": int(patience_s(config.deadline_s)),
        "eval_strategy": "steps" if evaluated else "no", "load_best_model_at_end": evaluated,
        "eval_steps": config.eval_steps if evaluated else None,
        "metric_for_best_model": "eval_loss" if evaluated else None, "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,
    }  # fmt: skip
    further = _further(config)
    taken = sorted(set(further) & (set(LatentConfig.model_fields) | {"output_dir", "max_steps"}))
    if taken:
        raise ConfigError(f"training_arguments: {', '.join(taken)} is a setting of its own; use its flag")
    fixed = sorted(set(further) & FIXED)
    if fixed:
        raise ConfigError(
            f"training_arguments: {', '.join(fixed)} cannot be changed: exact resume, the choice of the best "
            "weights or the run's records stand on it; leave it out"
        )
    try:
        return TrainingArguments(**{**ours, **further})
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"transformers refuses these training arguments: {error}") from error


def _further(config: LatentConfig) -> dict[str, Any]:
    """Return the further arguments in the types that transformers' own command line gives them."""
    given = config.training_arguments
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    try:
        parsed = HfArgumentParser([TrainingArguments]).parse_args_into_dataclasses(
            ["--output_dir", "none", "--use_cpu", "true", *words], return_remaining_strings=True
        )
    except (SystemExit, ValueError, TypeError) as error:
        raise ConfigError(f"training_arguments: transformers cannot read {given} ({error})") from error
    if parsed[-1]:
        raise ConfigError(f"training_arguments: {parsed[-1][0]} is no argument of TrainingArguments")
    return {name: getattr(parsed[0], name) for name in given}


def deepspeed_file(file: Path) -> Path:
    """Return DeepSpeed's settings: a path, or the bare name of a file that ships with us."""
    found = next((f for f in (file, CONFIGS / "deepspeed" / file) if f.is_file()), None)
    if found is None:
        known = ", ".join(sorted(f.name for f in (CONFIGS / "deepspeed").glob("*.json")))
        raise ConfigError(f"deepspeed={str(file)!r}: no such file; give a path or one of: {known}")
    return found


def _summarise(
    config: LatentConfig, run: Run, rows: Rows, teacher: Teacher, told: Any, seconds: dict[str, float],
    step: int,
) -> dict[str, Any]:  # fmt: skip
    """Measure the best student on the held-out conversations and write summary.json."""
    started = time.monotonic()
    speaker = trained_speaker(config, run.best, told)
    measured = measure_held_out(config, speaker, rows, teacher, every=False)
    by_name = {row.name: row for row in measured if row.name in SUMMARY}
    held: dict[str, Any] = {"n": len(rows.heldout)}
    if any(row.passed is not None for row in measured):
        held["blind"] = {SUMMARY[name]: row.pass_rate for name, row in by_name.items()}
    held["ce"] = {
        layout: {SUMMARY[name]: row.ce[layout] for name, row in by_name.items()} for layout in measured[0].ce
    }
    seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.monotonic() - started
    student = next(row for row in measured if row.name == "student")
    summary = {
        "channel": "latent", "seed": config.seed, "step": step, "heldout": held,
        "message": {"vectors": config.K, "width": told.bop.shape[0], "bits": student.bits},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }  # fmt: skip
    run.write_json("summary.json", summary)
    return summary


def measure_held_out(
    config: LatentConfig, speaker: Speaker, rows: Rows, teacher: Teacher, *, every: bool,
    warm: Speaker | None = None,
) -> list[Measured]:  # fmt: skip
    """Return the table of the held-out conversations, the student's line first.

    every   all controls, precisions and numbers of vectors; else those of summary.json
    warm    the student after its warm start, for a line of its own
    """
    judged = rows.judged
    width = int(speaker.student.bop.shape[0])
    collator = Collator(speaker.contexts, rows.hidden, config.K, width, speaker.tokenizer.pad_token_id or 0)
    messages = Messages(speaker, rows.heldout, collator, teacher, config.seed)
    sent = [messages.student(), *messages.controls()]
    if every:
        sent += [*messages.quantised(), *messages.sweep()]
    else:
        sent = [each for each in sent if each.name in SUMMARY]
    meter = Meter(teacher, config, judged=judged)
    layouts = layouts_of(config, rows.heldout)
    table = [meter.measure(messages, each, layouts) for each in sent]
    if warm is not None:
        before = Messages(warm, rows.heldout, collator, teacher, config.seed)
        alone = replace(before.student(), name="warm start alone", kind="baseline")
        table.append(meter.measure(before, alone, layouts))
    return table


def layouts_of(config: LatentConfig, rows: Sequence[Any]) -> list[str]:
    """Return the layouts the cross-entropy is measured in: the run's own, and beside blind the seed's."""
    return ["blind", "chat"] if config.data_path == STARTER else [config.layout]
