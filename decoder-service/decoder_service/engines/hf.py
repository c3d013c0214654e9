"""Engine `hf`: a frozen transformers model on this machine. Never trains, never downloads code.

The same message gives the same program whatever else is in the batch; on the CPU in float32 that is
tested. On a GPU in 16 bits another batch may round differently, which can flip a token whose two
best candidates are nearly equal; the cache in front keeps repeats of a message equal there too.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.hub import cached_file

from decoder_service.engines.engine import Decoding, EngineLost, Row
from decoder_service.engines.generation import Choose, Continuation, continue_batch
from decoder_service.engines.placement import Placement, place
from decoder_service.engines.prompting import Prompting
from decoder_service.engines.sampling import greedy, row_keys, sampled
from decoder_service.engines.weights import find_model, weights_sha256
from decoder_service.prompts import read_examples
from decoder_service.replies import program_of
from decoder_service.settings import DecoderSettings
from shared.errors import Broken, InvalidRequest, Overloaded
from shared.wire import ModelCard, Program

log = logging.getLogger(__name__)

# transformers annotates these in part only.
_MODELS: Any = AutoModelForCausalLM
_QUANTIZED: Any = BitsAndBytesConfig


class HfEngine:
    """One model and its tokenizer. `decode` belongs to the thread that loaded it."""

    def __init__(self, model: Any, prompting: Prompting, card: ModelCard, context_tokens: int | None) -> None:
        self._model, self._prompting, self._card = model, prompting, card
        self.context_tokens = context_tokens
        self._stop_ids = prompting.stop_ids(
            model.config.get_text_config().eos_token_id, model.generation_config.eos_token_id
        )

    def card(self) -> ModelCard:
        """Return what must be recorded to repeat a run."""
        return self._card

    def prepare(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each message's prompt in tokens.

        raises   InvalidRequest for a message with a token the model has no row for
        """
        prompts = self._prompting.token_ids(messages)
        vocabulary = self._model.config.get_text_config().vocab_size
        for message, prompt in zip(messages, prompts, strict=True):
            # On a GPU the look-up would take the whole device down.
            if max(prompt) >= vocabulary:
                raise InvalidRequest(
                    f"message {message[:80]!r}: token {max(prompt)} is beyond the model's {vocabulary}",
                    hint="the model was saved with a tokenizer that has more tokens than it",
                    field="messages",
                )
        return prompts

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens excluded."""
        return self._prompting.count(texts)

    def decode(self, rows: Sequence[Row], decoding: Decoding) -> list[Program]:
        """Return each row's program, in order; halves the batch when the device's memory runs out."""
        continuations = self._continue(rows, decoding)
        texts = self._prompting.text([c.token_ids for c in continuations])
        return [
            Program(
                text=program_of(text),
                tokens=len(c.token_ids) + c.stopped,
                finish_reason="stop" if c.stopped else "length",
            )
            for text, c in zip(texts, continuations, strict=True)
        ]

    def _continue(self, rows: Sequence[Row], decoding: Decoding) -> list[Continuation]:
        try:
            return continue_batch(
                self._model,
                [row.token_ids for row in rows],
                choose=self._choice(rows, decoding),
                max_new_tokens=decoding.max_new_tokens,
                stop_ids=self._stop_ids,
                pad_id=self._prompting.pad_id,
            )
        except torch.OutOfMemoryError:
            # Leave the handler first: its traceback keeps the failed batch's tensors alive.
            pass
        except torch.AcceleratorError as error:
            # A CUDA context does not survive an illegal access or an assertion on the device.
            raise EngineLost(f"the device failed: {error}", hint="restart the decoder") from error
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(rows) == 1:
            raise Overloaded(
                f"the device's memory does not hold a single message of {len(rows[0].token_ids)} tokens "
                f"with max_new_tokens={decoding.max_new_tokens}",
                hint="lower max_new_tokens, set DECODER_QUANTIZATION=nf4, or free the device",
                retry_after_s=10,
            )
        half = len(rows) // 2
        log.warning("out of memory, batch halved", extra={"rows": len(rows)})
        return [*self._continue(rows[:half], decoding), *self._continue(rows[half:], decoding)]

    def _choice(self, rows: Sequence[Row], decoding: Decoding) -> Choose:
        if decoding.temperature == 0:
            return lambda logits, alive, step: greedy(logits)
        keys = row_keys(rows).to(self._model.device)

        def choose(logits: Tensor, alive: Tensor, step: int) -> Tensor:
            return sampled(logits, keys[alive], step, decoding)

        return choose


def load_engine(settings: DecoderSettings) -> HfEngine:
    """Load the model the settings name. Must run in the thread that will call `decode`.

    raises   InvalidRequest when a setting is wrong, Broken when the model cannot be loaded
    """
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    source = find_model(settings.model)
    examples = read_examples(settings.few_shot)
    try:
        return _load(settings, source, examples)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:600]
        raise Broken(
            f"DECODER_MODEL={str(settings.model or source)!r} cannot be loaded: {reason}",
            hint="check name, files and memory; offline, a hub model must have been downloaded before",
            field="DECODER_MODEL",
        ) from error


def _load(settings: DecoderSettings, source: str | Path, examples: Sequence[Any]) -> HfEngine:
    where: dict[str, Any] = {"revision": settings.revision} if isinstance(source, str) else {}
    config = AutoConfig.from_pretrained(source, **where)
    commit = getattr(config, "_commit_hash", None) if isinstance(source, str) else None
    if commit:
        where = {"revision": commit}
    tokenizer = _tokenizer(source, where)
    placement = place(settings, _parameters(config))
    # A checkpoint that is quantized already stays what it is.
    kept = getattr(config, "quantization_config", None) is not None
    if kept:
        placement = placement._replace(quantization="none")
    how = {"dtype": placement.dtype} if kept else _how(placement)
    model: Any = _MODELS.from_pretrained(source, **where, **how)
    if placement.quantization == "none":
        model = model.to(placement.device)
    model.eval().requires_grad_(False)
    prompting = Prompting(tokenizer, examples)
    text_config = config.get_text_config()
    # A hub model's files lie side by side in its snapshot's folder.
    folder = source if isinstance(source, Path) else _snapshot(source, where)
    card = ModelCard(
        name=source.resolve().name if isinstance(source, Path) else source,
        engine="hf",
        revision=commit,
        weights_sha256=weights_sha256(folder),
        parameters=model.num_parameters(),
        quantization="checkpoint" if kept else placement.quantization,
        dtype=str(placement.dtype).removeprefix("torch."),
        device=str(model.device),
        width=text_config.hidden_size,
        vocabulary=text_config.vocab_size,
        template_sha256=prompting.template_sha256,
        libraries=_libraries(placement),
    )
    return HfEngine(model, prompting, card, getattr(text_config, "max_position_embeddings", None))


def _tokenizer(source: str | Path, where: dict[str, Any]) -> Any:
    """Load the tokenizer the files name.

    transformers 5 rebuilds any tokenizer beside a Qwen2 model as Qwen2's own, with another splitting of
    words, although its file names the general class: the model would read tokens it was not trained on.
    """
    named = get_tokenizer_config(source, **where).get("tokenizer_class")
    if named in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return PreTrainedTokenizerFast.from_pretrained(source, **where)
    return AutoTokenizer.from_pretrained(source, **where)


def _snapshot(name: str, where: dict[str, Any]) -> Path:
    return Path(str(cached_file(name, "config.json", **where))).parent


def _how(placement: Placement) -> dict[str, Any]:
    """Return the arguments of from_pretrained that make the weights what the placement says."""
    how: dict[str, Any] = {"dtype": placement.dtype}
    if placement.quantization == "none":
        return how
    if placement.quantization == "nf4":
        quantization = _QUANTIZED(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=placement.dtype,
        )
    else:
        quantization = _QUANTIZED(load_in_8bit=True)
    return {**how, "quantization_config": quantization, "device_map": {"": placement.device}}


def _parameters(config: Any) -> int:
    """Count a model's parameters without giving them memory."""
    with torch.device("meta"):
        return int(_MODELS.from_config(config).num_parameters())


def _libraries(placement: Placement) -> dict[str, str]:
    names = ["torch", "transformers", "tokenizers"]
    if placement.quantization != "none":
        names.append("bitsandbytes")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
