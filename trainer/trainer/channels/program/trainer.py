"""Train the program channel: REINFORCE by lines, our records around it. Never executes a program."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig

from shared.clients import run as run_async
from shared.errors import NoAnswer
from trainer.channels.callbacks import CheckpointCallback, Interrupts, say
from trainer.channels.grpo import Ended, close, train_or_halt
from trainer.channels.processes import join, patience_s
from trainer.channels.program.callbacks import HeldOutSequences, Recorder, is_over, over_after
from trainer.channels.program.heldout import Evaluation, evaluate, summary_of
from trainer.channels.program.policy import WARM, Policy, load_policy, load_trained, warmed
from trainer.channels.program.program_code import length_bits
from trainer.channels.program.prompts import policy_messages
from trainer.channels.program.reinforce import ProgramTrainer
from trainer.channels.program.reward_function import ProgramReward
from trainer.channels.program.samplers import Samplers
from trainer.channels.program.screening import Screening
from trainer.channels.program.search import connect
from trainer.channels.program.warm_start import warm_start
from trainer.channels.text.student import _adapter, precision, quiet_libraries
from trainer.config import ConfigError
from trainer.config_program import ProgramConfig
from trainer.runs import Run, read_state, resume_command
from trainer.tasks.sequences_load import Splits, load_splits
from trainer.tasks.sequences_shorten import shorten


def train(config: ProgramConfig, run: Run | None, folder: Path, checkpoint: Path | None) -> Ended:
    """Train, evaluate on the held-out sequences, and write summary.json.

    run         the run folder; None on every rank but the first
    folder      its path, on every rank
    checkpoint  where to resume from; None starts at step 0
    raises      ConfigError, NoAnswer before the first step, DiskFull
    """
    quiet_libraries()
    if config.threads:
        torch.set_num_threads(config.threads)
    cpu = precision(config.models).device == "cpu"
    processes = join(cpu=cpu, patience=patience_s(config.deadline_s, config.max_outages))
    splits = load_splits(config)
    _introduce(config, run)
    policy = _beginning(config, run, folder, splits)
    untrained = _untrained(config, policy, splits, run)
    processes.wait_for_everyone()
    reward = ProgramReward(config, splits.train)
    samplers = Samplers(policy.model, config.sample_processes) if config.sample_processes > 1 else None
    if samplers is not None:
        policy = policy._replace(sampler=samplers)
    trainer, epoch_steps = _trainer(config, policy, reward, folder, checkpoint)
    if config.screen_samples:
        trainer.screening = Screening(config, policy, reward, run)
    recorder = trainer.recorder = Recorder(trainer, reward, run)
    heldout = HeldOutSequences(trainer, config, policy, splits.validation, run, reward.stopping, epoch_steps)
    interrupts = Interrupts(reward.stopping, 1)
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
        if samplers is not None:
            samplers.close()
    step, again = trainer.state.global_step, resume_command("program", folder, processes.num_processes)
    if interrupts.received is not None and step < trainer.state.max_steps:
        return Ended(128 + interrupts.received, f"stopped at step {step}; go on with `{again}`", None)
    if recorder.reason:
        return Ended(1, f"{recorder.reason}; stopped at step {step}; go on with `{again}`", None)
    try:
        summary = _summarise(config, run, splits, untrained, heldout.best, recorder.seconds) if run else None
    except NoAnswer as error:
        return Ended(1, f"trained, but not measured: {error}; go on with `{again}`", None)
    return Ended(0, "", summary)


def _introduce(config: ProgramConfig, run: Run | None) -> None:
    """Wait for the sandbox, and note in services.json what it is."""

    async def ask() -> Any:
        async with connect(config) as client:
            return await client.capabilities()

    found = run_async(ask())
    if run is not None:
        run.write_json("services.json", {"sandbox": found.model_dump(mode="json")})


def _beginning(config: ProgramConfig, run: Run | None, folder: Path, splits: Splits) -> Policy:
    """Return the policy REINFORCE begins with: the model, or what a warm start made of it."""
    out = folder / WARM
    if config.warm_start and run is not None and not (out / "config.json").is_file():
        say(f"warm start: {config.warm_start_steps} supervised steps on generated pairs")
        warm_start(load_policy(config), config, out, exclude={*splits.validation, *splits.heldout})
    PartialState().wait_for_everyone()
    return load_policy(warmed(config, folder))


def _untrained(config: ProgramConfig, policy: Policy, splits: Splits, run: Run | None) -> Evaluation | None:
    """Measure the policy on the held-out sequences before its first step; a resumed run reads it."""
    if run is None:
        return None
    for row in run.rows("evaluations.jsonl"):
        if row["step"] == 0 and row["split"] == "test":
            return Evaluation(**row)
    if not config.use_8bit_quantization:
        policy.model.to(policy.precision.device)
    found = evaluate(policy, splits.heldout, config, step=0, split="test").evaluation
    run.append("evaluations.jsonl", [found._asdict()])
    say(
        f"untrained: solved {found.accuracy:.3f}  rate {found.compression_rate:.3f}  "
        f"bits {found.bits_per_sequence:.1f} (held out)"
    )
    return found


def _summarise(
    config: ProgramConfig, run: Run, splits: Splits, untrained: Evaluation | None, best: Evaluation | None,
    seconds: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Measure the best checkpoint on the held-out sequences and write summary.json."""
    assert untrained is not None and best is not None
    started = time.monotonic()
    policy = load_trained(config, run.folder, run.best)
    if not config.use_8bit_quantization:
        policy.model.to(policy.precision.device)
    found = evaluate(policy, splits.heldout, config, step=best.step, split="test")
    truth = fmean(length_bits(shorten(p)) + 1 for p in splits.truth) if splits.truth else None
    seconds["evaluate"] += time.monotonic() - started
    summary = summary_of(found, untrained, truth, config, seconds)
    run.write_json("summary.json", summary)
    return summary


def _trainer(
    config: ProgramConfig, policy: Policy, reward: ProgramReward, folder: Path, checkpoint: Path | None
) -> tuple[ProgramTrainer, int]:
    """Return the trainer and the steps of an epoch."""
    groups = config.batch_size * PartialState().num_processes
    epoch_steps = max(1, len(reward.sequences) // groups)
    steps = _steps(config, config.train_steps or epoch_steps * config.num_epochs, checkpoint)
    data = _data(reward.sequences, config, groups * steps)
    if "tensorboard" in config.report_to:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    trainer = ProgramTrainer(
        model=policy.model, reward_funcs=reward,
        args=grpo_config(config, policy, folder, steps, epoch_steps), train_dataset=data,
        processing_class=policy.tokenizer, peft_config=_adapter(config.models),
    )  # fmt: skip
    trainer.config, trainer.reward, trainer.sampler = config, reward, policy.sampler
    trainer.remove_callback(PrinterCallback)
    return trainer, epoch_steps


def _steps(config: ProgramConfig, steps: int, checkpoint: Path | None) -> int:
    """Return how many steps there are: those of the checkpoint if the run has had its time by then.

    The clock is looked at after each step, so that a run which only goes on would take one more.
    """
    if checkpoint is None or not is_over(config, seconds := read_state(checkpoint)["seconds"]):
        return steps
    done = int(checkpoint.name.rpartition("-")[2])
    if done < steps:
        say(over_after(config, seconds, done, steps) + "; --max-seconds gives it more")
    return min(done, steps)


def _data(sequences: Sequence[tuple[int, ...]], config: ProgramConfig, n: int) -> Dataset:
    """Return every prompt of the run in its order, epoch by epoch, shuffled here: TRL's own sampler shuffles
    a later epoch differently after a resume."""
    rng, order = np.random.default_rng(config.seed), np.empty(0, dtype=np.int64)
    while len(order) < n:
        order = np.concatenate([order, rng.permutation(len(sequences))])
    rows = Dataset.from_dict(
        {"prompt": [policy_messages(s) for s in sequences], "place": list(range(len(sequences)))}
    )
    return rows.select(order[:n].tolist())


def grpo_config(
    config: ProgramConfig, policy: Policy, folder: Path, steps: int, epoch_steps: int
) -> GRPOConfig:
    """Return TRL's settings: those under which its loss is REINFORCE's."""
    cuda, compute = policy.precision.device == "cuda", policy.precision.compute
    programs = config.batch_size * config.samples
    try:
        return GRPOConfig(
            output_dir=str(folder / "checkpoints"), run_name=folder.name, project="psuedoptimal",
            per_device_train_batch_size=programs // config.gradient_accumulation_steps,
            gradient_accumulation_steps=config.gradient_accumulation_steps, max_steps=steps,
            # Each sample is used for one update, its sum of tokens is divided by a constant, and nothing is
            # divided by a standard deviation.
            num_iterations=1, steps_per_generation=config.gradient_accumulation_steps,
            loss_type="dr_grpo", scale_rewards="none",
            # What the advantages are multiplied by as well, to be a program's sum and no token's share.
            beta=config.kl_coef * config.max_tokens,
            entropy_coef=config.entropy_coef, num_generations=config.samples,
            max_completion_length=config.max_tokens, temperature=config.temperature, top_p=1.0, top_k=0,
            learning_rate=config.learning_rate, lr_scheduler_type=config.lr_scheduler,
            warmup_steps=config.warmup if config.warmup < 1 else int(config.warmup),
            weight_decay=config.weight_decay, adam_beta2=config.adam_beta2,
            max_grad_norm=config.max_grad_norm, seed=config.seed,
            gradient_checkpointing=config.gradient_checkpointing, use_cpu=policy.precision.device == "cpu",
            bf16=cuda and compute == torch.bfloat16, fp16=cuda and compute == torch.float16,
            logging_steps=1, disable_tqdm=True, log_completions=False, report_to=config.report_to or "none",
            save_strategy="steps", save_steps=max(1, round(config.checkpoint_freq * epoch_steps)),
            save_total_limit=config.save_total_limit, shuffle_dataset=False,
            ddp_find_unused_parameters=False, remove_unused_columns=False, dataloader_pin_memory=cuda,
            ddp_timeout=int(patience_s(config.deadline_s, config.max_outages)),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses these settings: {error}") from error
