"""Every setting of a latent run. Names and defaults are the latent seed's; TrainingArguments' names are kept.

Imports no torch: `--help`, `doctor` and the tests of the settings start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shared.wire import Assurance, Limits
from trainer.config import Section, ServiceUrl
from trainer.config_text import STARTER, STARTER_STUDENT

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
PLAN_PREFIX = "Please generate a concise plan to solve this task:"


class Models(Section):
    """Models."""

    teacher_model_name_or_path: str = Field(
        description="the frozen teacher: hub name, folder, or `starter` (the decoder's own generator)"
    )
    student_model_name_or_path: str = Field(
        description="the student, every weight of it trained: hub name, folder, or `starter`"
    )
    teacher_in_process: bool = Field(
        False, description="run the teacher in this process instead of behind HTTP; the same numbers"
    )
    attn_implementation: Literal["auto", "flash_attention_2", "sdpa", "eager"] = Field(
        "auto", description="of the student; auto: flash_attention_2 where it works, else sdpa, else eager"
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="where the student runs")
    threads: int | None = Field(None, ge=1, le=1024, description="torch threads; null is torch's choice")

    @property
    def teacher_source(self) -> str | None:
        """What the decoder is given as its model; None is its own starter."""
        return None if self.teacher_model_name_or_path == STARTER else self.teacher_model_name_or_path

    @property
    def student_source(self) -> str:
        """The student's folder or hub name."""
        name = self.student_model_name_or_path
        return str(STARTER_STUDENT) if name == STARTER else name


class Data(Section):
    """Data."""

    data_path: str = Field(description="conversations, a JSON or JSONL file; or `starter`")
    hf_hidden_repo: str | None = Field(
        None, description="hidden states by id: hub name, or folder of save_to_disk; see `collect hidden`"
    )
    eval_ratio: Share = Field(0.05, description="share of the conversations that is held out, at least one")
    model_max_length: int = Field(
        4096, ge=8, description="tokens of a conversation with the block; longer ones are cut at their end"
    )
    layout: Literal["plain", "chat", "blind"] = Field(
        "plain",
        description="what the teacher reads beside the block: the packed turns, its template, or nothing",
    )
    student_layout: Literal["plain", "chat"] = Field("plain", description="how the student reads the task")
    plan_prefix: str = Field(PLAN_PREFIX, description="in front of what the student reads")
    train_tasks: Positive = Field(4000, description="starter: training tasks")
    validation_tasks: Positive = Field(64, description="starter: tasks that choose the best checkpoint")
    heldout_tasks: Positive = Field(240, description="starter: test tasks that summary.json is about")


class Message(Section):
    """Student and message."""

    K: int = Field(128, ge=1, le=4096, description="latent vectors of a message")
    student_mode: Literal["autoregressive", "queries"] = Field(
        "autoregressive", description="one after another, or K learned queries in one pass"
    )
    head: Literal["seed", "interlat"] = Field("seed", description="with the GLU stack, or without")
    head_heads: int = Field(8, ge=1, le=256, description="attention heads of the head")
    head_dropout: Share = Field(0.1, description="dropout of the head")
    marks_text: str | None = Field(
        None,
        min_length=1,
        description="what <bop> and <eop> begin as; none: the teacher's own, or drawn",
    )
    hidden_head_ckpt: Path | None = Field(None, description="a head's weights to begin with")
    warm_start_steps: int = Field(
        0, ge=0, le=1_000_000, description="first: supervised steps on the plans, without the teacher's loss"
    )
    warm_start_learning_rate: float = Field(3e-3, gt=0, le=10, description="of these steps")
    warm_start_batch: Positive = Field(64, description="plans of such a step")


class Loss(Section):
    """Loss."""

    ce_weight: float = Field(1.0, ge=0, le=1e6, description="cross-entropy of what the teacher must say")
    kl_weight: float = Field(1.0, ge=0, le=1e6, description="uncertainty-weighted KL; Interlat has 0.1")
    align_weight: float = Field(1.0, ge=0, le=1e6, description="cosine alignment; Interlat has 0.1")
    guide_schedule: Literal["constant", "rise", "fall"] = Field(
        "constant", description="KL and alignment over the run: as they are, from 0 up, or down to 0"
    )
    plan_mixing: float = Field(
        0.0, ge=0, le=1,
        description="curriculum: share of the messages that end in the plan's embeddings; falls to 0",
    )  # fmt: skip
    kl_temperature: float = Field(4.0, gt=0, le=100, description="of the KL")
    window: Positive = Field(64, description="supervised tokens after the block that the KL is about")


class Training(Section):
    """Training; every other argument of transformers' TrainingArguments is a flag too."""

    num_train_epochs: float = Field(3.0, gt=0, le=1e6, description="passes over the conversations")
    max_steps: int = Field(-1, ge=-1, description="steps; -1: by num_train_epochs")
    per_device_train_batch_size: Positive = Field(2, description="conversations per device and pass")
    per_device_eval_batch_size: Positive = Field(2, description="conversations per device when evaluating")
    gradient_accumulation_steps: Positive = Field(1, description="passes per step")
    learning_rate: float = Field(5e-5, gt=0, le=10, description="peak learning rate")
    lr_scheduler_type: str = Field("linear", description="transformers' name")
    warmup_ratio: Share = Field(0.03, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW weight decay")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW second moment")
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient's norm")
    eval_steps: Positive = Field(200, description="steps between two evaluations")
    save_steps: Positive = Field(200, description="steps between two checkpoints")
    save_total_limit: int = Field(2, ge=2, description="checkpoints kept, with the best one and the last")
    logging_steps: Positive = Field(10, description="steps between two lines of metrics.jsonl")
    early_stopping_patience: int = Field(5, ge=0, description="evaluations without progress; 0 is off")
    early_stopping_threshold: float = Field(0.0, ge=0, description="progress that counts")
    bf16: bool = Field(False, description="compute in bfloat16")
    fp16: bool = Field(False, description="compute in float16")
    gradient_checkpointing: bool = Field(
        False, description="compute each step again in the backward pass, to save memory"
    )
    deepspeed: Path | None = Field(None, description="DeepSpeed's JSON settings, e.g. zero2.json")
    seed: int = Field(42, ge=0, lt=2**32, description="of weights, split, order and noise")
    report_to: list[Literal["tensorboard", "trackio", "clearml", "wandb"]] = Field([], description="trackers")
    training_arguments: dict[str, Any] = Field(
        {}, description="further TrainingArguments, as YAML, e.g. '{optim: adafactor}'"
    )


class Service(Section):
    """Services; without a URL the run starts its own."""

    decoder_url: list[ServiceUrl] | None = Field(None, description="decoder services, all of one model")
    sandbox_url: list[ServiceUrl] | None = Field(None, description="sandbox services")
    decoder_token_file: Path | None = Field(None, description="file with the decoder's bearer token")
    sandbox_token_file: Path | None = Field(None, description="file with the sandbox's bearer token")
    deadline_s: float = Field(
        180.0, gt=0, le=86400, description="how long a service that is away is waited for"
    )
    max_program_tokens: int = Field(256, ge=1, le=8192, description="tokens of a decoded program")
    limits: Limits = Field(Limits(), description="what one judged program may use")
    min_assurance: Assurance = Field("rpc", description="the weakest way of judging that counts")


class Output(Section):
    """Output."""

    output_dir: Path | None = Field(None, description="the run folder [runs/latent-DATE-TIME]")


class LatentConfig(Output, Service, Training, Loss, Message, Data, Models):
    """A latent run."""

    @model_validator(mode="after")
    def _consistent(self) -> LatentConfig:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other; take one")
        guided = [name for name in ("kl_weight", "align_weight") if getattr(self, name)]
        if self.hf_hidden_repo is None and guided:
            raise ValueError(
                f"{guided[0]}={getattr(self, guided[0])} needs the hidden states of --hf_hidden_repo; make "
                "them with `psuedoptimal collect hidden`, or set --kl_weight 0 --align_weight 0"
            )
        if self.data_path != STARTER and self.layout == "blind":
            raise ValueError(
                "layout='blind' trains on the programs of `starter`; conversations need plain or chat"
            )
        if self.save_steps % self.eval_steps and self.eval_ratio:
            raise ValueError(
                f"save_steps={self.save_steps} is no multiple of eval_steps={self.eval_steps}: the best "
                "checkpoint could not be kept; change one of them"
            )
        return self
