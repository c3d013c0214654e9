"""From a message to the model's tokens: the tokenizer, its chat template, and nothing else.

A message cannot speak out of turn: marks such as <|im_end|> inside it become ordinary text, so it
cannot close its turn and put words into the decoder's mouth.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from decoder_service.prompts import Example, Turn, conversation, merge_role, plain_text, template_sha256
from shared.errors import InvalidRequest

# Stands for the message while a template is split around it; from the private use area.
_PLACE = "\ue000message\ue001"
_END = "\ue000end\ue001"
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

    def rendered(self, message: str) -> str:
        """Return a message's whole prompt as text."""
        with self._lock:
            return self._rendered(message)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens excluded."""
        with self._lock:
            encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [len(ids) for ids in encoded]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Return texts in tokens as they stand: nothing added, and marks in them are ordinary text."""
        with self._lock:
            found: list[list[int]] = self._tokenizer(
                list(texts), add_special_tokens=False, split_special_tokens=True
            )["input_ids"]
        return found

    def frame(self) -> tuple[list[int], list[int], list[int]]:
        """Return the decoder's own prompt before and after the message, and what follows its program."""
        with self._lock:
            turns = self._turns(_PLACE)
            before, _, after = self._rendered(_PLACE).partition(_PLACE)
            end: list[int] = []
            if self._template is not None:
                *_, ended = self._templated([*turns, {"role": "assistant", "content": _END}]).partition(_END)
                end = self._tokenizer(ended, add_special_tokens=False)["input_ids"]
            elif self._tokenizer.eos_token_id is not None:
                end = [self._tokenizer.eos_token_id]
            return (
                self._encoded([before])[0],
                self._tokenizer(after, add_special_tokens=False)["input_ids"],
                end,
            )

    def around(self, turns: Sequence[Turn], places: Sequence[str], *, open_end: bool) -> list[list[int]]:
        """Return the chat template's own tokens before, between and after turns whose contents are `places`.

        open_end   whether the assistant's next turn is opened at the end
        returns    [number of turns + 1]
        raises     InvalidRequest when there is no template, or it refuses or leaves out a turn
        """
        if self._template is None:
            hint = "use layout plain"
            raise InvalidRequest("layout='chat': the model has no chat template", hint=hint, field="layout")
        with self._lock:
            try:
                rest = self._templated(turns, add_generation_prompt=open_end)
            except TemplateError as error:
                raise InvalidRequest(
                    f"the chat template refuses this order of roles: {error}",
                    hint="use layout plain",
                    field="conversations",
                ) from error
            parts = []
            for number, place in enumerate(places):
                part, found, rest = rest.partition(place)
                if not found:
                    raise InvalidRequest(
                        f"the chat template leaves out turn {number} of {len(places)}",
                        hint="use layout plain, or send fewer turns",
                        field="conversations",
                    )
                parts.append(part)
            encoded: list[list[int]] = self._tokenizer([*parts, rest], add_special_tokens=False)["input_ids"]
        return encoded

    def text(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Return replies as text, without special tokens."""
        with self._lock:
            decode = self._tokenizer.decode
            return [
                decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in token_ids
            ]

    def token_id(self, token: str) -> int | None:
        """Return the number of a token of the vocabulary, None where it has none."""
        known: dict[str, int] = self._tokenizer.get_vocab()
        return known.get(token)

    def stop_ids(self, *configured: int | list[int] | None) -> frozenset[int]:
        """Return the tokens that end a reply: those the model's files name, and the usual turn ends."""
        known = self._tokenizer.get_vocab()
        ids = {known[mark] for mark in _TURN_ENDS if mark in known}
        for eos in (self._tokenizer.eos_token_id, *configured):
            ids.update([] if eos is None else eos if isinstance(eos, list) else [eos])
        return frozenset(ids)

    def _has_mark(self, message: str) -> bool:
        return any(mark in message for mark in self._marks)

    def _turns(self, message: str) -> list[Turn]:
        turns = conversation(message, self._examples)
        return merge_role(turns) if self._role_is_merged else turns

    def _rendered(self, message: str) -> str:
        if self._template is None:
            return plain_text(self._turns(message))
        return self._templated(self._turns(message), add_generation_prompt=True)

    def _templated(self, turns: Sequence[Turn], *, add_generation_prompt: bool = False) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False
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
