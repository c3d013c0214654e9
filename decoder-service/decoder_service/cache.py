"""The programs of messages that were decoded before. In memory; the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from decoder_service.engines.engine import Decoding
from shared.wire import Program


class Key(NamedTuple):
    """All that a program depends on while the process lives; `seed` is 0 where decoding is greedy."""

    message: str
    decoding: Decoding
    seed: int


def key_for(message: str, decoding: Decoding, seed: int) -> Key:
    """Return the key of one message; greedy decodings share one, whatever their top_p and seed."""
    if decoding.temperature == 0:
        return Key(message, Decoding(decoding.max_new_tokens), 0)
    return Key(message, decoding, seed)


class ProgramCache:
    """At most `size` programs; a size of 0 keeps none. For one thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._programs: OrderedDict[Key, Program] = OrderedDict()

    def get(self, key: Key) -> Program | None:
        """Return the program, marked as cached, or None."""
        program = self._programs.get(key)
        if program is not None:
            self._programs.move_to_end(key)
        return program

    def put(self, key: Key, program: Program) -> None:
        """Keep a program, letting go of the least recently used beyond the size."""
        if self._size == 0:
            return
        self._programs[key] = program.model_copy(update={"cached": True})
        self._programs.move_to_end(key)
        if len(self._programs) > self._size:
            self._programs.popitem(last=False)

    def __len__(self) -> int:
        return len(self._programs)
