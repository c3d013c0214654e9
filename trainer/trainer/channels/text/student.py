"""Load the policy to be trained, in the precision and quantisation this machine allows."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerBase

from trainer.config import ConfigError
from trainer.config_text import STARTER, Models
from trainer.measure.students import load_tokenizer


class Policy(NamedTuple):
    """What GRPOTrainer is given. `end_ids` are the tokens that end a message, as TRL finds them."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    adapter: Any
    end_ids: frozenset[int]


class Precision(NamedTuple):
    """How numbers are kept on this machine.

    dtype    of the frozen weights; weights that are trained themselves are kept in float32 on CUDA
    compute  what autocast computes in; float32 is no autocast
    nf4      whether the frozen weights are 4-bit
    """

    device: str
    dtype: torch.dtype
    compute: torch.dtype
    nf4: bool


def precision(config: Models) -> Precision:
    """Choose device, dtype and quantisation: the config's, or what the platform does best.

    raises  ConfigError if the config asks for a device or a quantisation that is not here
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = config.device if config.device != "auto" else next(name for name, here in there.items() if here)
    if not there[device]:
        raise ConfigError(f"device={device}: not here; take --device auto")
    half = torch.float16
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        half = torch.bfloat16
    match config.dtype, device:
        case "auto", "cuda":
            dtype, compute = half if config.lora else torch.float32, half
        case "auto", "mps":
            dtype = compute = torch.float16
        case "auto", _:
            dtype = compute = torch.float32
        case name, _:
            dtype = compute = getattr(torch, name)
    nf4 = config.quantization == "nf4" or (
        config.quantization == "auto" and device == "cuda" and config.lora is not None and _bitsandbytes()
    )
    if nf4 and not _bitsandbytes():
        raise ConfigError("quantization=nf4: bitsandbytes is not installed; `pip install psuedoptimal[cuda]`")
    return Precision(device, dtype, compute, nf4)


def load_policy(config: Models, chosen: Precision, local_rank: int = 0) -> Policy:
    """Load the student and its tokenizer.

    raises  ConfigError if the source is no model, or its tokenizer has no chat template or end token
    """
    source = config.student_source
    _check_source(config)
    extra: dict[str, Any] = {}
    if chosen.nf4:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=chosen.compute,
        )  # fmt: skip
        extra["device_map"] = {"": local_rank if chosen.device == "cuda" else chosen.device}
    try:
        tokenizer = load_tokenizer(str(source))
        model = AutoModelForCausalLM.from_pretrained(source, dtype=chosen.dtype, **extra)
    except (OSError, ValueError) as error:
        raise ConfigError(f"student_model={config.student_model!r} cannot be loaded: {error}") from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise ConfigError(
            f"student_model={config.student_model!r}: its tokenizer lacks a chat template or an end token"
        )
    own = model.generation_config.eos_token_id
    ends = {own} if isinstance(own, int) else set(own or [])
    return Policy(model, tokenizer, _adapter(config), frozenset(ends | {tokenizer.eos_token_id}))


def _check_source(config: Models) -> None:
    source = config.student_source
    if config.student_model == STARTER and not (Path(source) / "config.json").is_file():
        raise ConfigError(f"student_model=starter: {source} holds no model; build it with `make starter`")
    if (Path(source) / "adapter_config.json").is_file():
        raise ConfigError(f"student_model={source!r} is an adapter; give the model it belongs to")


def _adapter(config: Models) -> Any:
    """Return the peft configuration, or None for full fine-tuning."""
    if config.lora is None:
        return None
    from peft import LoraConfig, TaskType

    targets: str | list[str] = config.lora.targets
    if targets != "all-linear":
        targets = [name.strip() for name in str(targets).split(",")]
    return LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout,
        target_modules=targets, task_type=TaskType.CAUSAL_LM,
    )  # fmt: skip


def _bitsandbytes() -> bool:
    from importlib.util import find_spec

    return find_spec("bitsandbytes") is not None


def _is_news(record: logging.LogRecord) -> bool:
    """Whether TRL says more than that a batch has no reward, and all it held: the run says why, and stops."""
    return "All reward functions returned None" not in record.getMessage()


def quiet_libraries() -> None:
    """Silence warnings of the pinned libraries that no user can act on: TRL 1.16 calls names that
    transformers 5.23 has renamed."""
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(_is_news)
    for text in (
        ".*gradient_checkpointing.*deprecated.*",
        ".*activation_checkpointing.*",
        ".*use_reentrant.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
