"""The tokenizer a model's files name. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config


def load_tokenizer(source: str | Path, where: dict[str, Any]) -> Any:
    """Load the tokenizer the files name.

    transformers 5 rebuilds any tokenizer beside a Qwen2 model as Qwen2's own, with another splitting of
    words, although its file names the general class: the model would read tokens it was not trained on.
    """
    named = get_tokenizer_config(source, **where).get("tokenizer_class")
    if named in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return PreTrainedTokenizerFast.from_pretrained(source, **where)
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
