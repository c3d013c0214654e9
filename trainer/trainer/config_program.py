"""Every setting of a program run. The defaults are the first KoLMogorov experiment's, where they can learn.

Imports no torch: `--help` and the tests of the settings start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.wire import Limits
from trainer.channels.program.environment import Rules
from trainer.channels.program.execution import LIMITS
from trainer.config import Section, ServiceUrl
from trainer.config_text import STARTER, STARTER_STUDENT, Lora, Models
from trainer.tasks.sequences_files import CHUNK, Kind

# Beside the text channel's starter, so that a wheel holds both.
STARTER_CODER = STARTER_STUDENT / "program"
GENERATED = "generated"

Positive = Annotated[int, Field(ge=1)]


class Model(Section):
    """Model."""

    model_name: str = Field(
        "deepseek-ai/deepseek-coder-1.3b-instruct", description="the policy: hub name, folder, or `starter`"
    )
    lora: Lora | None = Field(None, description="a low-rank adapter; null trains every weight")
    use_8bit_quantization: bool = Field(False, description="8-bit frozen weights (CUDA); needs --lora-r")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto is bfloat16 on CUDA (float16 before Ampere), float16 on MPS, float32 on CPU"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where the policy lives")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    threads: int = Field(0, ge=0, le=256, description="torch threads on CPU; 0 leaves torch's choice")

    @property
    def source(self) -> str:
        """Where the policy's weights are: a folder or a hub name."""
        return str(STARTER_CODER) if self.model_name == STARTER else self.model_name

    @property
    def models(self) -> Models:
        """The same settings under the text channel's names."""
        return Models(
            student_model=self.source, lora=self.lora, quantization="none", dtype=self.dtype,
            device=self.device, gradient_checkpointing=self.gradient_checkpointing,
        )  # fmt: skip


class Data(Section):
    """Sequences."""

    data_path: str = Field(
        GENERATED,
        description="training sequences: `generated`, or a file; of a .jsonl each line is "
        '{"sequence": [7, 7, 10]}, bytes of 0 to 255, or {"text": "... following sequence: [7, 7, 10] ..."}',
    )
    eval_data_path: str = Field(GENERATED, description="held-out sequences: `generated`, or a file")
    data_kind: Kind = Field(
        "auto",
        description="what the files hold: jsonl; numbers, a sequence a line; dna, audio, text or bytes, cut "
        "into chunks; auto goes by their ending (.jsonl, .csv, .fasta, .wav, .txt; others are bytes)",
    )
    chunk: int = Field(CHUNK, ge=1, le=4096, description="bytes of a sequence cut from a file of bytes")
    max_length: int = Field(128, ge=2, le=4096, description="longer sequences are left out")
    train_sequences: Positive | None = Field(
        None, description="use only so many; generated: as many [6400 generated, all of a file]"
    )
    validation_sequences: int = Field(128, ge=1, description="sequences that choose the best checkpoint")
    heldout_sequences: int = Field(500, ge=1, description="sequences that summary.json is about")


class Training(Section):
    """Training."""

    num_epochs: int = Field(10, ge=1, le=100_000, description="passes over the training sequences")
    train_steps: Positive | None = Field(None, description="steps, whatever num_epochs says")
    batch_size: int = Field(8, ge=1, le=65536, description="sequences of a step")
    samples: int = Field(8, ge=2, le=4096, description="programs sampled for each of them")
    screen_samples: int = Field(
        0, ge=0, le=4096,
        description="programs tried for a sequence before steps are spent on it: where all are worth the "
        "same, it is left out; 0 keeps all",
    )  # fmt: skip
    screen_sequences: Positive | None = Field(None, description="sequences looked at each time [all]")
    screen_every: int = Field(
        0, ge=0, description="steps to the next look, at the next sequences; 0: one look"
    )
    sample_processes: int = Field(
        1, ge=1, le=64, description="processes that sample side by side, a CPU core each; whole weights only"
    )
    gradient_accumulation_steps: int = Field(1, ge=1, le=65536, description="backward passes per step")
    learning_rate: float = Field(1e-5, gt=0, le=10, description="peak learning rate")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate goes on after the warm-up"
    )
    warmup: float = Field(0.03, ge=0, description="below 1: fraction of all steps; else steps")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW second moment")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient's norm; 0 is off")
    max_seconds: float | None = Field(
        None, gt=0,
        description="end the training after the step with which sampling, screening, sandbox and updates "
        "took so long; the first screening and that step are not cut short, evaluations do not count",
    )  # fmt: skip
    seed: int = Field(42, ge=0, lt=2**32, description="of data, weights, order and sampling")
    warm_start: bool = Field(False, description="first learn from generated pairs, supervised")
    warm_start_steps: int = Field(1000, ge=1, description="of the warm start")
    warm_start_learning_rate: float = Field(1e-4, gt=0, le=10, description="of the warm start")
    warm_start_batch: int = Field(32, ge=1, le=65536, description="pairs of a warm start's step")


class Reinforce(Section):
    """REINFORCE."""

    gamma: float = Field(0.99, gt=0, le=1, description="discount from a line to the one before it")
    baseline: Literal["leave_one_out", "none"] = Field(
        "leave_one_out", description="leave_one_out: the mean of the other programs for the sequence"
    )
    temperature: float = Field(1.0, ge=0.01, le=10, description="of the policy while it trains")
    max_tokens: int = Field(512, ge=1, le=8192, description="tokens a program may have")
    entropy_coef: float = Field(
        0.0, ge=0, le=10,
        description="entropy bonus: times the mean nats per token, where reward_constant counts as 1",
    )  # fmt: skip
    kl_coef: float = Field(
        0.0, ge=0, le=10,
        description="times a program's KL to the policy as it began, in nats of all its tokens together, "
        "where reward_constant counts as 1",
    )  # fmt: skip


class Game(Section):
    """Reward."""

    reward_constant: float = Field(100.0, gt=0, description="of a program that makes the sequence")
    reward_per_byte: float = Field(
        0.0, ge=0, description="and for each number of it; 8 x length_penalty rewards the bits saved"
    )
    length_penalty: float = Field(0.1, ge=0, description="times its length; a reward is never below 0")
    length_measure: Literal["bits", "characters"] = Field(
        "bits", description="bits of the prefix code, or the first experiment's characters"
    )
    partial_credit: float = Field(
        0.0, ge=0, description="of a wrong program: times the share of the sequence it begins with"
    )
    max_steps: int = Field(100, ge=1, le=1000, description="lines a program may have")

    @property
    def rules(self) -> Rules:
        """The same as the environment's rules."""
        return Rules(
            self.reward_constant, self.length_penalty, self.length_measure, self.partial_credit,
            self.max_steps, self.reward_per_byte,
        )  # fmt: skip


class Service(Section):
    """Sandbox; without a URL the run starts its own."""

    sandbox_url: list[ServiceUrl] | None = Field(None, description="sandbox services")
    sandbox_token_file: Path | None = Field(None, description="file with the sandbox's bearer token")
    limits: Limits = Field(LIMITS, description="what one program may use")
    deadline_s: float = Field(
        180.0, gt=0, le=86400, description="how long one try waits for a sandbox that is away"
    )
    max_outages: int = Field(
        2, ge=1, le=1000,
        description="tries in a row without an answer that end the run, in front of the step or evaluation "
        "that needed it; none is left out, and --resume begins with it",
    )  # fmt: skip


class Output(Section):
    """Output."""

    output_dir: Path | None = Field(None, description="the run folder [runs/program-DATE-TIME]")
    checkpoint_freq: float = Field(1, gt=0, description="epochs between two checkpoints, e.g. 0.5")
    eval_freq: float = Field(1, gt=0, description="epochs between two evaluations, e.g. 0.5")
    logging_steps: int = Field(10, ge=1, description="steps between two live lines")
    save_total_limit: int = Field(2, ge=2, description="checkpoints kept")
    report_to: list[Literal["tensorboard", "trackio", "clearml", "wandb"]] = Field([], description="trackers")


class ProgramConfig(Output, Service, Game, Reinforce, Training, Data, Model):
    """A program run."""

    @model_validator(mode="after")
    def _consistent(self) -> ProgramConfig:
        programs, parts = self.batch_size * self.samples, self.gradient_accumulation_steps
        if programs % parts:
            raise ValueError(
                f"gradient_accumulation_steps={parts} does not divide the {programs} programs of a step "
                "(batch_size x samples); take a divisor"
            )
        if self.use_8bit_quantization and self.lora is None:
            raise ValueError(
                "use_8bit_quantization=True without lora: 8-bit weights cannot be trained; add --lora-r 16"
            )
        if self.sample_processes > 1 and (self.lora is not None or self.device != "cpu"):
            raise ValueError(
                f"sample_processes={self.sample_processes}: they share whole weights in memory; take "
                "--device cpu and --no-lora, or 1"
            )
        if self.screen_samples == 1:
            raise ValueError(
                "screen_samples=1: one program has nothing to differ from; take 4, or 0 for none"
            )
        if self.partial_credit >= self.reward_constant:
            raise ValueError(
                f"partial_credit={self.partial_credit}: a wrong program would be worth more than a right "
                f"one; stay below reward_constant={self.reward_constant}"
            )
        return self

    @property
    def sequences_wanted(self) -> int:
        """Generated training sequences."""
        return self.train_sequences or 6400
