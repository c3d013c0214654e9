"""From a folder or a name on the hub to a frozen model that is what its files say. Runs no code of theirs."""

from __future__ import annotations

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils.hub import cached_file

from decoder_service.engines.load_errors import check_complete, check_unquantized, reading
from decoder_service.engines.placement import Placement, check_spread, devices_of, place
from decoder_service.engines.prompting import Prompting
from decoder_service.engines.tokenizer import load_tokenizer
from decoder_service.engines.weights import find_model, weights_sha256
from decoder_service.prompts import read_examples
from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest
from shared.wire import ModelCard

# transformers annotates these in part only.
_MODELS: Any = AutoModelForCausalLM
_QUANTIZED: Any = BitsAndBytesConfig


class Loaded(NamedTuple):
    """A frozen model in evaluation mode and what belongs to it."""

    model: Any
    prompting: Prompting
    card: ModelCard
    context_tokens: int | None


def load_model(settings: DecoderSettings) -> Loaded:
    """Load the model the settings name.

    raises   InvalidRequest when a setting is wrong, or the model it names cannot be loaded
    """
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = find_model(settings.model)
    name = str(settings.model or source)
    examples = read_examples(settings.few_shot)
    where: dict[str, Any] = {"revision": settings.revision} if isinstance(source, str) else {}
    with reading(settings, name, "config.json"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        parameters = _parameters(config)
    commit = getattr(config, "_commit_hash", None) if isinstance(source, str) else None
    if commit:
        where = {"revision": commit}
    with reading(settings, name, "tokenizer"):
        tokenizer = load_tokenizer(source, where)
    with reading(settings, name, "chat template"):
        prompting = Prompting(tokenizer, examples)
        prompting.token_ids(["0"])
    placement = place(settings, parameters)
    # A checkpoint that is quantized already stays what it is.
    kept = getattr(config, "quantization_config", None) is not None
    if kept:
        check_unquantized(settings, config.quantization_config)
        placement = placement._replace(quantization="none")
    with reading(settings, name, "weights"):
        model = _model(name, source, where | _how(placement), placement)
        _check_finite(name, model, prompting)
    text_config = config.get_text_config()
    # A hub model's files lie side by side in its snapshot's folder.
    folder = source if isinstance(source, Path) else _snapshot(source, where)
    state = settings.state_dir
    remembered = state.expanduser() / "weights.json" if state is not None else None
    card = ModelCard(
        name=source.resolve().name if isinstance(source, Path) else source,
        engine="hf",
        revision=commit,
        weights_sha256=weights_sha256(folder, remembered),
        parameters=model.num_parameters(),
        quantization="checkpoint" if kept else placement.quantization,
        dtype=str(placement.dtype).removeprefix("torch."),
        device=",".join(devices_of(model)),
        width=text_config.hidden_size,
        vocabulary=text_config.vocab_size,
        template_sha256=prompting.template_sha256,
        libraries=_libraries(placement),
    )
    return Loaded(model, prompting, card, getattr(text_config, "max_position_embeddings", None))


def _model(name: str, source: str | Path, how: dict[str, Any], placement: Placement) -> Any:
    # What does not fit is told by name in check_complete instead of in a table on stderr.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    model, found = _MODELS.from_pretrained(
        source, **how, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_complete(name, found)
    check_spread(name, model)
    if "device_map" not in how:
        model = model.to(placement.device)
    model.eval().requires_grad_(False)
    return model


@torch.inference_mode()
def _check_finite(name: str, model: Any, prompting: Prompting) -> None:
    """Let the model read one prompt: weights that are not numbers would make every program empty."""
    ids = torch.tensor([prompting.token_ids(["0"])[0]], device=model.device)
    ids = ids[ids < model.config.get_text_config().vocab_size][None]
    logits: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    if not logits.isfinite().all():
        raise InvalidRequest(
            f"DECODER_MODEL={name!r}: in {model.dtype} it gives numbers that are not finite",
            hint="fetch its weights again, or set DECODER_DTYPE=bfloat16 or float32",
            field="DECODER_MODEL",
        )


def _snapshot(name: str, where: dict[str, Any]) -> Path:
    return Path(str(cached_file(name, "config.json", **where))).parent


def _how(placement: Placement) -> dict[str, Any]:
    """Return the arguments of from_pretrained that make the weights what the placement says."""
    how: dict[str, Any] = {"dtype": placement.dtype}
    if placement.spread is not None:
        how["device_map"] = placement.spread
    elif placement.quantization != "none":
        how["device_map"] = {"": placement.device}
    match placement.quantization:
        case "nf4":
            how["quantization_config"] = _QUANTIZED(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=placement.dtype,
            )
        case "int8":
            how["quantization_config"] = _QUANTIZED(load_in_8bit=True)
            # It warns at every layer of every pass that it rounds what it multiplies to float16.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        case "none":
            pass
    return how


def _parameters(config: Any) -> int:
    """Count a model's parameters without giving them memory."""
    with torch.device("meta"):
        return int(_MODELS.from_config(config, trust_remote_code=False).num_parameters())


def _libraries(placement: Placement) -> dict[str, str]:
    names = ["torch", "transformers", "tokenizers"]
    if placement.quantization != "none":
        names.append("bitsandbytes")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
