"""Load the student: its base model, tokenizer, head, and what it begins with; and from a run's checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, PreTrainedTokenizerBase

from shared.wire_latents import EmbedReply
from trainer.channels.latent.batches import Contexts
from trainer.channels.latent.head import HiddenStateHead, load_head
from trainer.channels.latent.rollout import check_recomputable
from trainer.channels.latent.student import LatentStudent
from trainer.channels.latent.vectors import from_wire
from trainer.checkpoints import weights_damage
from trainer.config import ConfigError
from trainer.config_latent import LatentConfig
from trainer.measure.students import load_tokenizer


class Speaker(NamedTuple):
    """A student, its tokenizer, what it reads, and the device it is meant for."""

    student: LatentStudent
    tokenizer: PreTrainedTokenizerBase
    contexts: Contexts
    device: str


def device_of(config: LatentConfig) -> str:
    """Return cuda, mps or cpu. Raises ConfigError for a device that is not here."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = config.device if config.device != "auto" else next(name for name, here in there.items() if here)
    if not there[device]:
        raise ConfigError(f"device={device}: not here; take --device auto")
    return device


def load_speaker(config: LatentConfig, teacher: EmbedReply) -> Speaker:
    """Return a new student for this teacher.

    teacher  its marks and the size of its embeddings
    raises   ConfigError if the source is no model, or a setting does not fit it
    """
    device = device_of(config)
    try:
        tokenizer = load_tokenizer(config.student_source)
        base = _base(config, device)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"student_model_name_or_path={config.student_model_name_or_path!r} cannot be loaded: {error}"
        ) from error
    contexts = Contexts(config, tokenizer)
    bop, eop = from_wire(teacher.bop), from_wire(teacher.eop)
    head = HiddenStateHead(len(bop), form=config.head, heads=config.head_heads, dropout=config.head_dropout)
    head.calibrate(teacher.rms)
    if config.hidden_head_ckpt is not None:
        load_head(head, config.hidden_head_ckpt)
    if config.gradient_checkpointing and config.student_mode == "autoregressive":
        check_recomputable(base)
    student = LatentStudent(
        base, len(bop), config.K, mode=config.student_mode, head=head,
        recompute=config.gradient_checkpointing,
    )  # fmt: skip
    if config.gradient_checkpointing and config.student_mode == "queries":
        base.gradient_checkpointing_enable()
    with torch.no_grad():
        student.bop.copy_(bop)
        student.eop.copy_(eop)
        if contexts.start_id is not None and student.mode == "autoregressive":
            student.start.copy_(base.get_input_embeddings().weight[contexts.start_id])
    return Speaker(student.to(device), tokenizer, contexts, device)


def trained_speaker(config: LatentConfig, checkpoint: Path, teacher: EmbedReply) -> Speaker:
    """Return the student of a run's checkpoint, in eval mode.

    raises  ConfigError if its weights are damaged or of another shape
    """
    from safetensors.torch import load_file

    if reason := weights_damage(checkpoint):
        raise ConfigError(f"{reason}; take another checkpoint")
    speaker = load_speaker(config.model_copy(update={"hidden_head_ckpt": None}), teacher)
    file = checkpoint / "model.safetensors"
    if not file.is_file():
        raise ConfigError(f"{file}: no student here; give a run folder that has trained")
    try:
        speaker.student.load_state_dict(load_file(file, device=speaker.device))
    except RuntimeError as error:
        raise ConfigError(f"{file}: does not fit this student and teacher ({error})") from error
    speaker.student.eval()
    return speaker


def _base(config: LatentConfig, device: str) -> Any:
    """Load the headless model in float32, with the best attention that works here."""
    wanted = config.attn_implementation
    flash = device == "cuda" and (config.bf16 or config.fp16) and importlib.util.find_spec("flash_attn")
    tried = [wanted] if wanted != "auto" else [*(["flash_attention_2"] if flash else []), "sdpa", "eager"]
    for number, attention in enumerate(tried):
        try:
            base: Any = AutoModel.from_pretrained(
                config.student_source, dtype=torch.float32, attn_implementation=attention
            )
            return base
        except (ValueError, ImportError) as error:
            if number + 1 == len(tried):
                raise ValueError(f"attn_implementation={attention}: {error}") from error
    raise AssertionError("at least one is tried")
