"""Every setting of a text run. The defaults are the first Psuedoptimal experiment's.

Imports no torch: `--help`, `doctor` and the tests of the settings start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shared.wire import Assurance, Limits, Temperature
from trainer.config import ConfigError, Section, ServiceUrl

STARTER = "starter"
# In a wheel the weights lie inside the package, in a checkout beside it.
_PACKAGE = Path(__file__).resolve().parent
_WEIGHTS = _PACKAGE / "starter" / "weights"
STARTER_STUDENT = _WEIGHTS if _WEIGHTS.is_dir() else _PACKAGE.parent / "starter"

Positive = Annotated[int, Field(ge=1)]
# Rewards are squared in float32, which ends at 3e38; times a ratio of lengths, 1e6 stays far inside.
MAX_REWARD = 1e6
# TRL's settings that draw messages otherwise than by temperature, or elsewhere.
OTHER_DRAWS = (
    "use_vllm", "use_transformers_continuous_batching", "min_p", "generation_kwargs",
    "cache_implementation",
)  # fmt: skip


class Lora(Section):
    """A low-rank adapter on the student."""

    r: int = Field(16, ge=1, le=1024, description="rank")
    alpha: int = Field(32, ge=1, le=8192, description="scale: the update is multiplied by alpha / r")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout in front of the adapter")
    targets: str = Field("all-linear", description="modules that get one: all-linear, or names by comma")


class Models(Section):
    """Models."""

    student_model: str = Field(
        "Qwen/Qwen2.5-Coder-0.5B-Instruct", description="the encoder: hub name, folder, or `starter`"
    )
    generator_model: str | None = Field(
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        description="the frozen decoder (`echo` is none): what is started, or what --decoder-url must have",
    )
    lora: Lora | None = Field(Lora(), description="a low-rank adapter; null trains every weight")
    quantization: Literal["auto", "nf4", "none"] = Field(
        "auto", description="weights of the student; auto is nf4 on CUDA with LoRA, else none"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto is bfloat16 on CUDA (float16 before Ampere), float16 on MPS, float32 on CPU"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where the student lives")
    gradient_checkpointing: bool = Field(True, description="recompute activations: less memory, more time")
    threads: int = Field(0, ge=0, le=256, description="torch threads on CPU; 0 leaves torch's choice")

    @property
    def student_source(self) -> str:
        """Where the student's weights are: a folder or a hub name."""
        return str(STARTER_STUDENT) if self.student_model == STARTER else self.student_model


class Data(Section):
    """Tasks."""

    dataset: str = Field(
        "mbpp", description="starter, mbpp (from the hub), a .json/.jsonl file, or a hub name"
    )
    dataset_config: Literal["sanitized", "full"] = Field("sanitized", description="which MBPP")
    train_tasks: Positive | None = Field(None, description="use only so many training tasks")
    validation_tasks: Positive | None = Field(
        None, description="tasks that choose the best checkpoint; null is all"
    )
    heldout_tasks: Positive | None = Field(
        None, description="test tasks that summary.json is about; null is all"
    )
    debug: bool = Field(
        False,
        description="shrink what files say, to a run that only shows whether everything works; its config "
        "holds the small numbers, and debug: false",
    )


class Optimiser(Section):
    """Training."""

    batch_size: int = Field(2, ge=1, le=65536, description="messages per device and backward pass")
    gradient_accumulation_steps: int = Field(8, ge=1, le=65536, description="backward passes per step")
    num_epochs: float = Field(3, gt=0, le=1e6, description="passes over the training tasks")
    max_steps: Positive | None = Field(None, description="steps; overrides num_epochs")
    learning_rate: float = Field(1e-5, gt=0, le=10, description="peak learning rate")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate goes on after the warm-up"
    )
    warmup: float = Field(0.1, ge=0, le=1e9, description="below 1: fraction of all steps; else steps")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW second moment")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient's norm; 0 is off")
    seed: int = Field(42, ge=0, lt=2**32, description="of weights, order of tasks and sampling")


class Rollouts(Section):
    """Rollouts and loss."""

    num_generations: int = Field(4, ge=2, le=4096, description="messages per task (a group)")
    max_completion_length: int = Field(
        256, ge=1, le=8192, description="tokens a message may have; longer fails"
    )
    # Logits over it must stay finite in float16, which ends at 65504.
    temperature: float = Field(1.0, ge=0.01, le=10, description="of the student while it trains")
    anchor_rate: float = Field(
        0.0, ge=0, le=1,
        description="share of the steps in which each group's last message is drawn between the student as "
        "it is and as it was untrained; it counts where no other of its group passes",
    )  # fmt: skip
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 is off")
    top_k: int = Field(0, ge=0, description="sample from the k likeliest; 0 is off")
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo"] = Field(
        "dapo", description="TRL's name"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="divide advantages by a std"
    )
    beta: float = Field(0.0, ge=0, le=10, description="weight of the KL to the untrained student")
    entropy_coef: float = Field(0.0, ge=0, le=10, description="entropy bonus")
    epsilon: float = Field(0.2, ge=0, le=10, description="PPO clip, below")
    epsilon_high: float | None = Field(None, ge=0, le=10, description="PPO clip, above; null is epsilon")
    num_iterations: int = Field(1, ge=1, le=100, description="updates per sampled batch")
    steps_per_generation: Positive | None = Field(
        None, description="backward passes per sampled batch; null is gradient_accumulation_steps"
    )
    mask_truncated: bool = Field(False, description="leave truncated messages out of the loss")
    trl: dict[str, Any] = Field(
        {}, description="further GRPOConfig arguments, as YAML, e.g. '{use_vllm: true}'"
    )


class Reward(Section):
    """Reward."""

    reward: Literal["ratio", "log_ratio", "budget", "lagrangian", "relative"] = Field(
        "ratio", description="see rewards.py"
    )
    pass_reward: float = Field(
        10.0, ge=-MAX_REWARD, le=MAX_REWARD,
        description="ratio: times reference / message tokens when all tests pass",
    )  # fmt: skip
    fail_reward: float = Field(
        -1.0, ge=-MAX_REWARD, le=MAX_REWARD, description="ratio, log_ratio, budget: when any test fails"
    )
    length_floor: int = Field(1, ge=1, le=10_000, description="shorter messages count as this long")
    ratio_cap: float | None = Field(None, gt=0, description="ratio: compression beyond this earns no more")
    log_scale: float = Field(0.5, ge=0, le=MAX_REWARD, description="log_ratio: reward per factor of log_base")
    log_base: float = Field(4.0, gt=1, description="log_ratio: base of the logarithm")
    log_cap: float = Field(
        2.0, gt=0, le=MAX_REWARD, description="log_ratio: the logarithm is cut to [-log_cap, log_cap]"
    )
    target_pass_rate: float = Field(
        0.9,
        gt=0,
        le=1,
        description="lagrangian, relative, budget: the pass rate to hold; also what the best checkpoint must "
        "reach",
    )
    multiplier: float = Field(
        1.0, ge=0, le=MAX_REWARD, description="lagrangian, relative: reward of passing, at the start"
    )
    multiplier_rate: float = Field(
        0.5, ge=0, le=MAX_REWARD, description="the multiplier's change per step and missing pass rate"
    )
    multiplier_min: float = Field(0.1, ge=0, le=MAX_REWARD, description="lower bound of the multiplier")
    multiplier_max: float = Field(10.0, gt=0, le=MAX_REWARD, description="upper bound of the multiplier")
    pass_rate_memory: float = Field(
        0.0, ge=0, lt=1, description="multiplier, budget: weight of earlier steps' pass rate"
    )
    budget: float = Field(
        16.0, ge=1, le=10_000, description="budget: tokens a passing message may have to be paid in full"
    )
    budget_start: float | None = Field(
        None, ge=1, le=10_000,
        description="budget: the same at the start, annealed to `budget` while target_pass_rate holds; null "
        "begins at `budget`",
    )  # fmt: skip
    budget_rate: float = Field(
        0.03, ge=0, lt=1, description="budget: share by which it shrinks in a step that holds the pass rate"
    )
    budget_slack: float = Field(
        8.0, ge=0, le=10_000, description="budget: tokens over it at which nothing is paid; 0 is at once"
    )


class Services(Section):
    """Services; without a URL the run starts its own."""

    decoder_url: list[ServiceUrl] | None = Field(None, description="decoder services")
    sandbox_url: list[ServiceUrl] | None = Field(None, description="sandbox services")
    decoders: int = Field(
        1, ge=1, le=64, description="decoders that are started without a URL; each batch is split over them"
    )
    decoder_token_file: Path | None = Field(None, description="file with the decoder's bearer token")
    sandbox_token_file: Path | None = Field(None, description="file with the sandbox's bearer token")
    max_program_tokens: int = Field(512, ge=1, le=8192, description="tokens a program may have")
    generator_temperature: Temperature = Field(0.0, description="of the decoder; 0 makes rewards repeatable")
    min_assurance: Assurance = Field("rpc", description="weakest kind of verdict that counts")
    limits: Limits = Field(Limits(), description="what one program may use")
    deadline_s: float = Field(
        180.0, gt=0, le=86400, description="how long one try waits for a service that is away"
    )
    max_outages: int = Field(
        2,
        ge=1,
        le=1000,
        description="tries in a row without an answer that end the run, in front of the step or evaluation "
        "that needed it; none is left out, and --resume begins with it",
    )


class Output(Section):
    """Output."""

    runs: Path = Field(Path("runs"), description="folder of the run folders")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="run folder: letters, digits, dots, dashes and underscores, a letter or digit first; "
        "null makes one up",
    )
    logging_steps: int = Field(10, ge=1, description="steps between two live lines")
    example_steps: int = Field(50, ge=1, description="steps between two printed sets of examples")
    examples: int = Field(2, ge=0, le=20, description="examples in a set")
    eval_steps: int = Field(50, ge=1, description="steps between two evaluations on the validation tasks")
    save_steps: int = Field(50, ge=1, description="steps between two checkpoints")
    save_total_limit: int = Field(
        2, ge=2, description="checkpoints kept; 2 so that one is whole while one is written"
    )
    report_to: list[Literal["tensorboard", "trackio", "clearml", "wandb"]] = Field([], description="trackers")
    clearml: bool = Field(True, description="--no-clearml takes clearml out of report_to")


class TextConfig(Output, Services, Reward, Rollouts, Optimiser, Data, Models):
    """A text run."""

    @model_validator(mode="after")
    def _consistent(self) -> TextConfig:
        if self.multiplier_min > self.multiplier_max:
            raise ValueError(
                f"multiplier_min={self.multiplier_min} is above multiplier_max={self.multiplier_max}"
            )
        if self.budget_start is not None and self.budget_start < self.budget:
            raise ValueError(
                f"budget_start={self.budget_start:g} is below budget={self.budget:g}; it is annealed down"
            )
        cycle = (self.steps_per_generation or self.gradient_accumulation_steps) * self.num_iterations
        if cycle % self.gradient_accumulation_steps and self.gradient_accumulation_steps % cycle:
            raise ValueError(
                f"steps_per_generation={self.steps_per_generation}: with gradient_accumulation_steps="
                f"{self.gradient_accumulation_steps} a sampled batch would end inside a step; take a "
                "multiple or a divisor"
            )
        if self.save_steps % self.generation_steps:
            raise ValueError(
                f"save_steps={self.save_steps}: a sampled batch lasts {self.generation_steps} steps, and "
                f"only between two can a checkpoint resume exactly; take a multiple of that"
            )
        if self.anchor_rate and (other := self._other_draws()):
            raise ValueError(
                f"anchor_rate={self.anchor_rate:g} with {other}: anchors are drawn by temperature alone, in "
                "the trainer; set anchor_rate=0 or leave that out"
            )
        if self.quantization == "nf4" and self.lora is None:
            raise ValueError(
                "quantization=nf4 without lora: 4-bit weights cannot be trained; drop one of the two"
            )
        return self

    def _other_draws(self) -> str:
        """Name the settings by which messages are drawn otherwise than by temperature in the trainer."""
        found = [f"top_p={self.top_p:g}"] if self.top_p != 1 else []
        found += [f"top_k={self.top_k}"] if self.top_k else []
        return ", ".join(found + [f"trl.{name}" for name in OTHER_DRAWS if self.trl.get(name)])

    @property
    def generation_steps(self) -> int:
        """Optimiser steps that one sampled batch lasts."""
        micro = (self.steps_per_generation or self.gradient_accumulation_steps) * self.num_iterations
        return max(1, micro // self.gradient_accumulation_steps)

    def groups(self, processes: int) -> int:
        """Return the tasks of one sampled batch. Raises ConfigError if it does not hold whole groups."""
        micro = self.steps_per_generation or self.gradient_accumulation_steps
        messages = self.batch_size * micro * processes
        if messages % self.num_generations:
            raise ConfigError(
                f"num_generations={self.num_generations} does not divide the {messages} messages of a "
                f"sampled batch (batch_size={self.batch_size} x {micro} backward passes"
                + (f" x {processes} processes" if processes > 1 else "")
                + "); change one of them"
            )
        own = self.batch_size * micro
        if self.reward == "relative" and own % self.num_generations:
            raise ConfigError(
                f"reward=relative: scores a message beside its group; each process samples {own} messages "
                f"(batch_size={self.batch_size} x {micro} backward passes), which are no whole groups of "
                f"num_generations={self.num_generations}; change one of them, or the reward"
            )
        return messages // self.num_generations

    @property
    def trackers(self) -> list[str]:
        """The trackers to report to, less ClearML with --no-clearml."""
        return [name for name in self.report_to if self.clearml or name != "clearml"]
