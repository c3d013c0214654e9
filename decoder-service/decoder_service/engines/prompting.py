"""From a message to the model's tokens: the tokenizer, its chat template, and nothing else.

A message cannot speak out of turn: marks such as <|im_end|> inside it become ordinary text, so it
cannot close its turn and put words into the decoder's mouth.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from decoder_service.prompts import Example, conversation, merge_role, plain_text, template_sha256

# Stands for the message while a template is split around it; from the private use area.
_PLACE = "\ue000message\ue001"
_TURN_ENDS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>"
)  # fmt: skip


class Prompting:
    """Wraps a tokenizer, which is not safe to call from two threads: every call holds one lock."""

    def __init__(self, tokenizer: Any, examples: Sequence[Example]) -> None:
        self._tokenizer = tokenizer
        self._examples = tuple(examples)
        self._lock = threading.Lock()
        self._template: str | None = tokenizer.get_chat_template() if tokenizer.chat_template else None
        self._marks = tuple(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and token.content
        )
        self._role_is_merged = False
        if self._template is not None:
            try:
                self._rendered(_PLACE)
            except TemplateError:
                self._role_is_merged = True
        self.template_sha256 = template_sha256(self._examples, self._template)
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def token_ids(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each message's whole prompt in tokens."""
        with self._lock:
            harmless = [message for message in messages if not self._has_mark(message)]
            ids = iter(self._encoded([self._rendered(message) for message in harmless]) if harmless else ())
            return [
                tuple(self._spliced(message) if self._has_mark(message) else next(ids))
                for message in messages
            ]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens excluded."""
        with self._lock:
            encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [len(ids) for ids in encoded]

    def text(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Return replies as text, without special tokens."""
        with self._lock:
            decode = self._tokenizer.decode
            return [
                decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in token_ids
            ]

    def stop_ids(self, *configured: int | list[int] | None) -> frozenset[int]:
        """Return the tokens that end a reply: those the model's files name, and the usual turn ends."""
        known = self._tokenizer.get_vocab()
        ids = {known[mark] for mark in _TURN_ENDS if mark in known}
        for eos in (self._tokenizer.eos_token_id, *configured):
            ids.update([] if eos is None else eos if isinstance(eos, list) else [eos])
        return frozenset(ids)

    def _has_mark(self, message: str) -> bool:
        return any(mark in message for mark in self._marks)

    def _rendered(self, message: str) -> str:
        turns = conversation(message, self._examples)
        if self._template is None:
            return plain_text(turns)
        if self._role_is_merged:
            turns = merge_role(turns)
        rendered: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return rendered

    def _encoded(self, texts: list[str], **how: bool) -> list[list[int]]:
        # A chat template writes the opening token itself.
        encoded: list[list[int]] = self._tokenizer(texts, add_special_tokens=self._template is None, **how)[
            "input_ids"
        ]
        return encoded

    def _spliced(self, message: str) -> list[int]:
        """Tokenize around the message, and the message as plain text."""
        before, _, after = self._rendered(_PLACE).partition(_PLACE)
        tokenizer = self._tokenizer
        start = self._encoded([before])[0]
        middle: list[int] = tokenizer(message, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        end: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"]
        return [*start, *middle, *end]
