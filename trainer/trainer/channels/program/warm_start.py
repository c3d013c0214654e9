"""Supervised learning from generated pairs: a policy's warm start, and the whole of the starter's recipe."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from trainer.channels.program.policy import Policy, prompt_of
from trainer.channels.program.program_code import length_bits
from trainer.channels.text.student import _adapter
from trainer.config_program import ProgramConfig
from trainer.tasks.sequences import Pair, stream
from trainer.tasks.sequences_shorten import shorten
from trainer.tasks.sequences_transcribe import transcribe

# Batches are cut from a pool of so many pairs sorted by length, so that little of one is padding.
POOL = 2048
# The share of programs that only say the runs: what a policy falls back on where it sees nothing shorter.
TRANSCRIBED = 0.5
NO_LABEL = -100


class Stage(NamedTuple):
    """A part of the training.

    until       the share of all steps at which it ends
    max_length  bytes of a sequence
    tokens      of a batch, padding included
    """

    until: float
    max_length: int
    tokens: int


class Example(NamedTuple):
    """A prompt's tokens and those of the program that should follow it."""

    prompt: list[int]
    program: list[int]

    @property
    def size(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.program)


class Pairs(IterableDataset[list[Example]]):
    """Batches of generated pairs, without end: the train split only, each time drawn anew.

    stages       what a batch holds, by the number of batches already given out
    transcribed  the share of programs that say the sequence's runs; the others are the generator's,
                 shortened, where that is not longer
    skip         batches already given out before, on a resume
    """

    def __init__(
        self, tokenizer: Any, stages: list[Stage], steps: int, *, seed: int, transcribed: float = TRANSCRIBED,
        exclude: Collection[tuple[int, ...]] = (), max_tokens: int = 512, skip: int = 0,
    ) -> None:  # fmt: skip
        self.tokenizer, self.stages, self.steps, self.seed = tokenizer, stages, steps, seed
        self.transcribed, self.exclude, self.max_tokens, self.skip = transcribed, exclude, max_tokens, skip

    def __iter__(self) -> Iterator[list[Example]]:
        given, rng = self.skip, random.Random(f"{self.seed}/{self.skip}")
        streams: dict[int, Iterator[Pair]] = {}
        while True:
            stage = next((s for s in self.stages if given < s.until * self.steps), self.stages[-1])
            # Each limit of the stage as often: short sequences would else be what is seen most, or least.
            for limit in self._limits(stage):
                if limit not in streams:
                    seed = rng.randrange(1 << 60)
                    streams[limit] = stream("train", seed, max_length=limit, exclude=self.exclude)
            pool = [self._example(next(streams[rng.choice(self._limits(stage))]), rng) for _ in range(POOL)]
            batches = list(batched(pool, stage.tokens))
            rng.shuffle(batches)
            for batch in batches:
                yield batch
                given += 1

    @staticmethod
    def _limits(stage: Stage) -> list[int]:
        return sorted({stage.max_length, max(24, stage.max_length // 2)})

    def _example(self, pair: Pair, rng: random.Random) -> Example:
        program = transcribe(pair.sequence)
        if rng.random() >= self.transcribed:
            program = min(shorten(pair.program), program, key=length_bits)
        encode: Callable[..., Any] = self.tokenizer
        prompt = encode(prompt_of(self.tokenizer, pair.sequence), add_special_tokens=False)["input_ids"]
        answer = encode(str(program), add_special_tokens=False)["input_ids"][: self.max_tokens]
        return Example(prompt, [*answer, self.tokenizer.eos_token_id])


def batched(examples: list[Example], tokens: int) -> Iterator[list[Example]]:
    """Yield batches of examples of like length, each of at most so many tokens (or one example)."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda e: e.size):
        if batch and example.size * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def collate(items: list[list[Example]], pad: int) -> dict[str, torch.Tensor]:
    """Pad one batch on the right. returns input_ids, labels, attention_mask, each [B, T]"""
    (batch,) = items
    shape = (len(batch), max(example.size for example in batch))
    ids, labels = torch.full(shape, pad), torch.full(shape, NO_LABEL)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (prompt, program) in enumerate(batch):
        start, end = len(prompt), len(prompt) + len(program)
        ids[row, :end] = torch.tensor(prompt + program)
        labels[row, start:end] = torch.tensor(program)
        mask[row, :end] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def supervise(
    model: Any, pairs: Pairs, out: Path, *, learning_rate: float, seed: int, cpu: bool,
    resume: bool = False, workers: int = 0, save_steps: int = 500,
    optimizer: torch.optim.Optimizer | None = None, **more: Any,
) -> dict[str, float]:  # fmt: skip
    """Train a model on pairs, for pairs.steps steps.

    out        a folder for checkpoints
    resume     go on from the last whole one, with pairs not seen before
    workers    processes that draw pairs
    optimizer  in place of AdamW at learning_rate; the schedule scales its own rates
    returns    {"loss", "seconds", "steps"}
    """
    last = max(
        (int(p.parent.name.split("-")[1]) for p in out.glob("checkpoint-*/trainer_state.json")), default=0
    )
    pairs.skip = last if resume else 0
    pad = int(pairs.tokenizer.pad_token_id)
    trainer = Trainer(
        model=model, train_dataset=pairs, data_collator=lambda items: collate(items, pad),
        optimizers=(optimizer, None),
        args=TrainingArguments(**({
            "output_dir": str(out), "max_steps": pairs.steps, "per_device_train_batch_size": 1,
            "learning_rate": learning_rate, "lr_scheduler_type": "cosine", "warmup_steps": 0.02,
            "weight_decay": 0.01, "adam_beta2": 0.98, "max_grad_norm": 1.0, "logging_steps": 100,
            "save_strategy": "steps", "save_steps": save_steps, "save_total_limit": 1, "report_to": "none",
            "seed": seed, "use_cpu": cpu, "remove_unused_columns": False, "disable_tqdm": True,
            "dataloader_num_workers": workers, "ignore_data_skip": True,
            "accelerator_config": {"dispatch_batches": False},
        } | more)),
    )  # fmt: skip
    result = trainer.train(resume_from_checkpoint=True if resume and last else None)
    return {
        "loss": round(result.training_loss, 4),
        "seconds": round(result.metrics["train_runtime"], 1),
        "steps": pairs.steps,
    }


def warm_start(
    policy: Policy, config: ProgramConfig, out: Path, *, exclude: Collection[tuple[int, ...]]
) -> None:
    """Teach a policy the language from generated pairs, and save it where REINFORCE begins from.

    exclude  held-out sequences, never to be drawn
    """
    model, adapter = policy.model, _adapter(config.models)
    if adapter is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapter)
    tokens = config.warm_start_batch * 256
    stages = [Stage(0.3, max(24, config.max_length // 2), tokens), Stage(1.0, config.max_length, tokens)]
    pairs = Pairs(
        policy.tokenizer, stages, config.warm_start_steps, seed=config.seed, exclude=exclude,
        max_tokens=config.max_tokens,
    )  # fmt: skip
    supervise(
        model, pairs, out.with_name(f"{out.name}.work"), learning_rate=config.warm_start_learning_rate,
        seed=config.seed, cpu=policy.precision.device == "cpu", save_strategy="no",
    )  # fmt: skip
    if adapter is not None:
        model = model.merge_and_unload()
    partial = out.with_name(f"{out.name}.partial")
    model.save_pretrained(partial)
    policy.tokenizer.save_pretrained(partial)
    partial.rename(out)
