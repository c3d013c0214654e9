"""What every engine is: something frozen that turns prepared messages into programs. Holds no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from shared.errors import Broken, RoomError
from shared.wire import ModelCard, Program
from shared.wire_latents import (
    EmbedReply,
    EmbedRequest,
    HiddenReply,
    HiddenRequest,
    LatentDecodeReply,
    LatentDecodeRequest,
    LatentLossReply,
    LatentLossRequest,
)

R = TypeVar("R")
GoOn = Callable[[], None]
Wanted = Callable[[int], bool]


def always(row: int) -> bool:
    """Want every row to its end."""
    return True


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


class DeviceMemory(NamedTuple):
    """allocated_bytes: of living tensors; reserved_bytes: what the process keeps on the device for them."""

    allocated_bytes: int
    reserved_bytes: int


class EngineLost(Broken):
    """The device failed in a way that only a new process can mend."""


class Abandoned(Exception):
    """Nobody waits for this work any more."""


@dataclass(frozen=True)
class Work(Generic[R]):
    """A checked request for the model's thread.

    tokens   what it makes the model read and write; what it is admitted by
    run      does it; calls its argument between passes, which raises when it should stop
    """

    tokens: int
    run: Callable[[GoOn], R]


class LatentEngine(Protocol):
    """What takes and gives vectors. Each method checks a request from any thread and returns the work.

    raises   InvalidRequest naming the field
    """

    def loss(self, request: LatentLossRequest) -> Work[LatentLossReply]:
        """Loss terms of latent messages and the gradient."""

    def decode(self, request: LatentDecodeRequest) -> Work[LatentDecodeReply]:
        """Programs from latent messages."""

    def hidden(self, request: HiddenRequest) -> Work[HiddenReply]:
        """Last-layer states of what the assistant says."""

    def embed(self, request: EmbedRequest) -> Work[EmbedReply]:
        """Embeddings of tokens, and the table's statistics."""


class Asked(Protocol):
    """One message that waits to be decoded."""

    @property
    def row(self) -> Row:
        """The message, ready."""

    @property
    def decoding(self) -> Decoding:
        """How its program is generated."""

    @property
    def tokens(self) -> int:
        """What prompt and program can grow to."""

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""


Results = Sequence[tuple[Asked, "Program | RoomError | None"]]


class Feed(Protocol):
    """Where an engine takes what it decodes from, and gives it back."""

    def join(self, rows: int, longest: int, most_tokens: int | None = None) -> Sequence[Asked]:
        """Take what may join `rows` running rows, the longest of which can grow to `longest` tokens.

        most_tokens   rows x longest afterwards, at most; one row alone may always run
        """

    def batch(self) -> Sequence[Asked]:
        """Take one batch of rows that decode alike; empty where nothing waits."""

    def done(self, results: Results) -> None:
        """Give back; None is a row nobody wanted any more."""


class Engine(Protocol):
    """`work` and `decode` are called from one thread, the one that owns the model; the rest from any."""

    @property
    def context_tokens(self) -> int | None:
        """Tokens prompt and program may have together; None if there is no bound."""

    @property
    def latents(self) -> LatentEngine | None:
        """What takes vectors; None if this engine cannot."""

    def card(self) -> ModelCard:
        """Return what must be recorded to repeat a run."""

    def prepare(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each message's prompt in tokens."""

    def prompts(self, messages: Sequence[str]) -> list[str]:
        """Return each message's whole prompt as text."""

    def decode(
        self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted = always
    ) -> Sequence[Program | RoomError | None]:
        """Return each row's program, in order. A program depends on its row and `decoding` only.

        wanted   asked for a row's place while it runs; where it says no, the row may end with None
        returns  where only that row failed, its error

        raises   Overloaded when one row alone does not fit into the device's memory,
                 EngineLost when no later call can succeed either
        """

    def work(self, feed: Feed) -> None:
        """Decode what the feed gives: a batch that rows join while it runs, or one batch, to its end.

        raises   as decode; what was taken and not given back has then failed
        """

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens excluded."""

    def memory(self) -> DeviceMemory | None:
        """Return what the engine holds of its GPUs' memory; None where it has none."""

    def close(self) -> None:
        """Let go of what a process's end would not."""


def work_one_batch(engine: Engine, feed: Feed) -> None:
    """Decode one batch of the feed, for engines whose batches nothing can join."""
    batch = feed.batch()
    if batch:
        found = engine.decode([job.row for job in batch], batch[0].decoding, lambda row: batch[row].wanted)
        feed.done(list(zip(batch, found, strict=True)))


A = TypeVar("A", bound=Asked)


def that_fit(waiting: Iterable[A], rows: int, longest: int, most_rows: float, most_tokens: float) -> list[A]:
    """Return the first of those that wait, as many as may join `rows` rows of up to `longest` tokens."""
    taken: list[A] = []
    for asked in waiting:
        count, longest = rows + len(taken) + 1, max(longest, asked.tokens)
        if count > 1 and (count > most_rows or count * longest > most_tokens):
            break
        taken.append(asked)
    return taken
