"""What every engine is: something frozen that turns prepared messages into programs. Holds no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shared.errors import Broken
from shared.wire import ModelCard, Program


class Decoding(NamedTuple):
    """How programs are generated. Greedy decodings that differ in nothing that matters are equal.

    max_new_tokens   tokens a program may have
    temperature      0 is greedy
    top_p            nucleus sampling; 1 is off
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Row(NamedTuple):
    """One message, ready to be decoded.

    message    what the student sent
    token_ids  the whole prompt in the engine's tokens; what the batch is sized by
    seed       of this row's own chance; 0 where decoding is greedy
    """

    message: str
    token_ids: tuple[int, ...]
    seed: int


class EngineLost(Broken):
    """The device failed in a way that only a new process can mend."""


class Engine(Protocol):
    """`decode` is called from one thread at a time, the one that owns the model; the rest from any."""

    @property
    def context_tokens(self) -> int | None:
        """Tokens prompt and program may have together; None if there is no bound."""

    def card(self) -> ModelCard:
        """Return what must be recorded to repeat a run."""

    def prepare(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each message's prompt in tokens."""

    def decode(self, rows: Sequence[Row], decoding: Decoding) -> list[Program]:
        """Return each row's program, in order. A program depends on its row and `decoding` only.

        raises   Overloaded when one row alone does not fit into the device's memory,
                 EngineLost when no later call can succeed either
        """

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens excluded."""
