"""The programs of messages that were decoded before; the least recently used goes first.

In memory, and with a store also on disk: the memory is filled from it once, and it is written behind.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from decoder_service.engines.weights import files_sha256, find_model
from decoder_service.keys import Key
from decoder_service.settings import DecoderSettings
from decoder_service.store import ProgramStore, identity
from shared.wire import ModelCard, Program


def open_cache(settings: DecoderSettings, card: ModelCard) -> ProgramCache:
    """Make the cache the settings ask for.

    raises   InvalidRequest when its file cannot be used
    """
    # An echoed program is its message: keeping it would only double it.
    if card.engine == "echo" or settings.cache_size == 0:
        return ProgramCache(0)
    if settings.cache_file is None:
        return ProgramCache(settings.cache_size)
    source = settings.remote_tokenizer if card.engine == "remote" else find_model(settings.model)
    # Of a model on the hub the card has the revision.
    files = files_sha256(Path(source)) if source is not None and Path(source).is_dir() else None
    store = ProgramStore(
        settings.cache_file.expanduser(),
        identity(card, settings.remote_url, files),
        rows=settings.cache_size,
        max_bytes=settings.cache_file_mb * 1024 * 1024,
    )
    return ProgramCache(settings.cache_size, store)


class ProgramCache:
    """At most `size` programs; a size of 0 keeps none. `get` and `put` are for one thread."""

    def __init__(self, size: int, store: ProgramStore | None = None) -> None:
        self._size, self._store = size, store
        self._programs: OrderedDict[Key, Program] = OrderedDict(store.programs() if store else ())

    def get(self, key: Key) -> Program | None:
        """Return the program, marked as cached, or None."""
        program = self._programs.get(key)
        if program is not None:
            self._programs.move_to_end(key)
            if self._store is not None:
                self._store.note(key)
        return program

    def put(self, key: Key, program: Program) -> None:
        """Keep a program, letting go of the least recently used beyond the size."""
        if self._size == 0:
            return
        self._programs[key] = program.model_copy(update={"cached": True})
        self._programs.move_to_end(key)
        if len(self._programs) > self._size:
            self._programs.popitem(last=False)
        if self._store is not None:
            self._store.note(key, program)

    @property
    def is_kept(self) -> bool:
        """Whether there is a store, so that `flush` has something to do."""
        return self._store is not None

    def flush(self) -> None:
        """Write to disk what is new, where there is a store. Blocks; from any thread."""
        if self._store is not None:
            self._store.flush()

    def close(self) -> None:
        """Flush, and close the file."""
        if self._store is not None:
            self._store.close()

    def __len__(self) -> int:
        return len(self._programs)
