"""A real code for messages: what they cost in bits once their own statistics are known to both sides.

An interpolated n-gram model of token ids (Witten & Bell 1991) drives an exact arithmetic code in whole
numbers (Rissanen 1976). Each message is a code word of its own, its end included; code words are free of
prefixes, so a stream of them is read back without separators. No torch.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# A probability's share of the scale: what even the least likely token gets is one part of it.
SCALE = 1 << 32
ORDER = 3
Ids = Sequence[int]


class CodeError(ValueError):
    """Bits that are no code word, or a token outside the vocabulary."""


class Read(NamedTuple):
    """A message, and where in the bits its code word ended."""

    ids: list[int]
    end: int


class MessageModel:
    """How likely each token is after the ones before it; every token of the vocabulary can be written.

    vocabulary  number of token ids; the id `vocabulary` itself stands for the end of a message
    order       tokens looked at: 1 looks at none before it, 3 at two
    """

    def __init__(self, vocabulary: int, order: int = ORDER) -> None:
        if vocabulary < 1 or order < 1:
            raise ValueError(f"vocabulary={vocabulary}, order={order}: both must be at least 1")
        self.vocabulary, self.order = vocabulary, order
        self._seen: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)

    @property
    def end(self) -> int:
        """The id that stands for the end of a message."""
        return self.vocabulary

    def fit(self, messages: Sequence[Ids]) -> MessageModel:
        """Add the counts of messages, and return the model. Raises CodeError for an unknown token."""
        for message in messages:
            ids = [self.end, *self._whole(message)]
            for place, token in enumerate(ids[1:], 1):
                for back in range(min(place, self.order - 1) + 1):
                    self._seen[tuple(ids[place - back : place])][token] += 1
        return self

    def encode(self, message: Ids) -> str:
        """Return the code word of a message as a string of 0 and 1. Raises CodeError."""
        ids = self._whole(message)
        low, wide, scale = 0, 1, 1
        for place, token in enumerate(ids):
            parts = self._cumulated(ids[:place])
            below, above, total = int(parts[token]), int(parts[token + 1]), int(parts[-1])
            low, wide, scale = low * total + below * wide, wide * (above - below), scale * total
        bits = max(0, scale.bit_length() - wide.bit_length() - 1)
        while True:
            # The first dyadic interval of this size that lies wholly inside the message's own.
            first = -(-(low << bits) // scale)
            if (first + 1) * scale <= (low + wide) << bits:
                return format(first, f"0{bits}b") if bits else ""
            bits += 1

    def decode(self, bits: str, start: int = 0) -> Read:
        """Read one message from a stream of code words.

        start   where its code word begins
        raises  CodeError if the bits end inside a code word, or are none
        """
        given = bits[start:]
        if set(given) - {"0", "1"}:
            raise CodeError("a code word is made of 0 and 1")
        value, size = int(given or "0", 2), len(given)
        ids: list[int] = []
        low, wide, scale = 0, 1, 1
        while not ids or ids[-1] != self.end:
            parts = self._cumulated(ids)
            total = int(parts[-1])
            place = ((value * scale - (low << size)) * total) // (wide << size)
            token = int(np.searchsorted(parts, place, side="right")) - 1
            below, above = int(parts[token]), int(parts[token + 1])
            low, wide, scale = low * total + below * wide, wide * (above - below), scale * total
            ids.append(token)
            if scale.bit_length() - wide.bit_length() > size + 1:
                raise CodeError(f"the bits end inside a code word, after {len(ids) - 1} tokens")
        word = self.encode(ids[:-1])
        if given[: len(word)] != word:
            raise CodeError("the bits end inside a code word")
        return Read(ids[:-1], start + len(word))

    def ideal_bits(self, message: Ids) -> float:
        """Return -log2 of the message's probability: no code under this model is shorter on average."""
        ids, bits = self._whole(message), 0.0
        for place, token in enumerate(ids):
            parts = self._cumulated(ids[:place])
            bits -= float(np.log2((parts[token + 1] - parts[token]) / parts[-1]))
        return bits

    def _whole(self, message: Ids) -> list[int]:
        """Return a message with its end behind it."""
        for token in message:
            if not 0 <= token < self.vocabulary:
                raise CodeError(f"token {token}: the vocabulary has {self.vocabulary}")
        return [*message, self.end]

    def _cumulated(self, before: Ids) -> Any:
        """Return the parts of the scale after some tokens: [V + 2], from 0, growing by at least 1 a token.

        Witten-Bell: a context seen n times with t different tokens leaves t / (n + t) to the shorter one.
        A message begins after an end.
        Only products and quotients of single numbers: the same on every machine with IEEE doubles.
        """
        before = [self.end, *before]
        likely = np.full(self.vocabulary + 1, 1.0 / (self.vocabulary + 1))
        for back in range(min(len(before), self.order - 1) + 1):
            seen = self._seen.get(tuple(before[len(before) - back :]))
            if not seen:
                break
            both = seen.total() + len(seen)
            likely *= len(seen) / both
            for token, count in seen.items():
                likely[token] += count / both
        parts = np.zeros(self.vocabulary + 2, dtype=np.int64)
        np.cumsum((likely * SCALE).astype(np.int64) + 1, out=parts[1:])
        return parts

    def as_json(self) -> dict[str, Any]:
        """Return the model as JSON: contexts by their ids, counts of what followed."""
        seen = {
            " ".join(map(str, context)): {str(token): count for token, count in sorted(found.items())}
            for context, found in sorted(self._seen.items())
        }
        return {"vocabulary": self.vocabulary, "order": self.order, "seen": seen}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> MessageModel:
        """Return the model that `as_json` wrote. Raises CodeError for anything else."""
        try:
            model = cls(int(stored["vocabulary"]), int(stored["order"]))
            for context, found in stored["seen"].items():
                counts = Counter({int(token): int(count) for token, count in found.items()})
                model._seen[tuple(map(int, context.split()))] = counts
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CodeError(f"no message model: {error!r}; export the codec again") from error
        return model


def cross_fitted_bits(
    messages: Sequence[Ids], vocabulary: int, *, order: int = ORDER, folds: int = 10, seed: int = 0
) -> list[int]:
    """Return each message's code length, under a model fitted on the other folds' messages only.

    messages  [N] token ids, one message a task
    folds     groups the messages are dealt into at random; at most N
    returns   [N] bits of real code words, the end of the message paid for
    """
    places = list(range(len(messages)))
    random.Random(seed).shuffle(places)
    bits = [0] * len(messages)
    for fold in range(min(folds, len(messages))):
        measured = set(places[fold::folds])
        model = MessageModel(vocabulary, order).fit([messages[i] for i in places if i not in measured])
        for i in measured:
            bits[i] = len(model.encode(messages[i]))
    return bits
