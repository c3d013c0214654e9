"""Engine `echo`: the message is the program. The baseline, and the smallest real stack; needs no torch.

Its tokens are words and single signs, so that limits and counts mean something without a tokenizer.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence

from decoder_service.engines.engine import Decoding, Feed, Row, Wanted, always, work_one_batch
from shared.wire import ModelCard, Program

_TOKEN = re.compile(r"\w+|[^\w\s]")


class EchoEngine:
    """Sends every message back, cut after max_new_tokens of its words and signs."""

    context_tokens = None
    latents = None

    def card(self) -> ModelCard:
        """Return the card of an engine that has no weights."""
        return ModelCard(
            name="echo",
            engine="echo",
            quantization="none",
            dtype="none",
            device="cpu",
            template_sha256=hashlib.sha256(b"echo").hexdigest(),
            libraries={"python": platform.python_version()},
        )

    def prepare(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return one placeholder token per word or sign: only their number is used."""
        return [(0,) * tokens for tokens in self.count(messages)]

    def prompts(self, messages: Sequence[str]) -> list[str]:
        """Return the messages: nothing is put around them."""
        return list(messages)

    def decode(self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted = always) -> list[Program]:
        """Return the messages as programs."""
        return [_echo(row.message, decoding.max_new_tokens) for row in rows]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words and signs of each text."""
        return [sum(1 for _ in _TOKEN.finditer(text)) for text in texts]

    def work(self, feed: Feed) -> None:
        """Decode one batch."""
        work_one_batch(self, feed)

    def memory(self) -> None:
        """There is no device here."""

    def close(self) -> None:
        """Nothing is held."""


def _echo(message: str, max_new_tokens: int) -> Program:
    """Return the message, or what comes before its word number max_new_tokens + 1."""
    tokens = 0
    for token in _TOKEN.finditer(message):
        if tokens == max_new_tokens:
            return Program(text=message[: token.start()], tokens=tokens, finish_reason="length")
        tokens += 1
    return Program(text=message, tokens=tokens, finish_reason="stop")
