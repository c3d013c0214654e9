"""Programs kept on disk between runs of the service: one SQLite file, bounded in rows and bytes.

A program is only found again by exactly the decoder that made it: the file's rows carry a hash of the
model card, of the files beside the weights, of the server's address where the model is elsewhere, and of
this package's source. What a remote server does not tell of itself (other weights under the same name)
cannot be in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from decoder_service.engines.engine import Decoding
from decoder_service.keys import Key
from shared.errors import InvalidRequest
from shared.wire import ModelCard, Program

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS programs (
    decoder BLOB NOT NULL, message BLOB NOT NULL, max_new_tokens INTEGER NOT NULL,
    temperature REAL NOT NULL, top_p REAL NOT NULL, seed INTEGER NOT NULL,
    text BLOB NOT NULL, tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (decoder, message, max_new_tokens, temperature, top_p, seed)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS programs_used ON programs (used);
"""
_VERSION = 1


def identity(card: ModelCard, address: str | None, files: str | None) -> bytes:
    """Hash everything that decides what a decoder makes of a message.

    address   the server's URL on engine `remote`
    files     hash of the model's, or only its tokenizer's, configuration where that is a folder here
    """
    source = hashlib.sha256()
    package = Path(__file__).resolve().parent
    for file in sorted(package.rglob("*.py")):
        source.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    whole = json.dumps([card.model_dump(), address, files, source.hexdigest()], sort_keys=True)
    return hashlib.sha256(whole.encode()).digest()


class ProgramStore:
    """The file of one decoder, among others'. Methods may be called from any thread.

    rows, max_bytes   bounds of the whole file's content, all decoders together; least recently used go first
    """

    def __init__(self, path: Path, decoder: bytes, *, rows: int, max_bytes: int) -> None:
        self._path, self._decoder, self._rows, self._max_bytes = path, decoder, rows, max_bytes
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: dict[Key, Program | None] = {}
        self._database: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=5, check_same_thread=False)
            self._prepare(self._database)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def programs(self) -> Iterator[tuple[Key, Program]]:
        """Yield this decoder's programs, least recently used first.

        raises   InvalidRequest when the file is damaged
        """
        try:
            yield from self._read()
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> InvalidRequest:
        """Close the file, and return the error that names it."""
        self.close()
        field = "DECODER_CACHE_FILE"
        reason = " ".join(str(error).split())[:300]
        return InvalidRequest(
            f"{field}={str(self._path)!r}: cannot be used ({reason})",
            hint="name a file that this service may write, delete a broken one, or unset it",
            field=field,
        )

    def _read(self) -> Iterator[tuple[Key, Program]]:
        assert self._database is not None
        found = self._database.execute(
            "SELECT message, max_new_tokens, temperature, top_p, seed, text, tokens, finish_reason FROM "
            "(SELECT * FROM programs WHERE decoder = ? ORDER BY used DESC LIMIT ?) ORDER BY used",
            (self._decoder, self._rows),
        )
        for message, new_tokens, temperature, top_p, seed, text, tokens, finish_reason in found:
            key = Key(_text(message), Decoding(new_tokens, temperature, top_p), seed)
            yield (
                key,
                Program(text=_text(text), tokens=tokens, finish_reason=finish_reason, cached=True),
            )

    def note(self, key: Key, program: Program | None = None) -> None:
        """Remember a program, or (None) that one was used, for the next `flush`. Never waits for the file."""
        with self._lock:
            if program is not None or key not in self._pending:
                self._pending[key] = program

    def flush(self) -> None:
        """Write what was noted, and let go of what exceeds the bounds. A full disk ends the keeping only.

        While another process holds the file for longer than five seconds, what was noted waits for the next
        time, as long as it is no more than the file may hold.
        """
        with self._writing:
            with self._lock:
                noted, self._pending = self._pending, {}
            if not noted or self._database is None:
                return
            try:
                with self._database:
                    self._write(self._database, noted)
                    self._prune(self._database)
            except sqlite3.Error as error:
                if _is_busy(error) and len(noted) <= self._rows:
                    self._note_again(noted)
                    return
                log.warning("programs are not kept on disk any more", extra={"reason": str(error)})
                self._database.close()
                self._database = None

    def _note_again(self, noted: dict[Key, Program | None]) -> None:
        with self._lock:
            later, self._pending = self._pending, noted
        for key, program in later.items():
            self.note(key, program)

    def close(self) -> None:
        """Write what was noted, and close the file."""
        if self._database is not None:
            self.flush()
        if self._database is not None:
            if self._pending:
                log.warning("programs are not kept on disk", extra={"reason": "another process holds it"})
            self._database.close()
            self._database = None

    def _prepare(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it was written by another version ({version})")
        database.execute("PRAGMA journal_mode = WAL")
        # A crash may lose the last programs, never the file.
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_VERSION}")

    def _write(self, database: sqlite3.Connection, noted: dict[Key, Program | None]) -> None:
        used = database.execute("SELECT coalesce(max(used), 0) FROM programs").fetchone()[0]
        for key, program in noted.items():
            used += 1
            where = (self._decoder, _blob(key.message), *key.decoding, key.seed)
            if program is None:
                database.execute(
                    "UPDATE programs SET used = ? WHERE decoder = ? AND message = ? AND max_new_tokens = ? "
                    "AND temperature = ? AND top_p = ? AND seed = ?",
                    (used, *where),
                )
            else:
                told = (_blob(program.text), program.tokens, program.finish_reason, used)
                database.execute(
                    "INSERT OR REPLACE INTO programs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*where, *told)
                )

    def _prune(self, database: sqlite3.Connection) -> None:
        database.execute(
            "DELETE FROM programs WHERE used <= "
            "(SELECT used FROM programs ORDER BY used DESC LIMIT 1 OFFSET ?)",
            (self._rows,),
        )
        database.execute(
            "DELETE FROM programs WHERE used <= (SELECT max(used) FROM (SELECT used, "
            "sum(length(message) + length(text)) OVER (ORDER BY used DESC) AS bytes FROM programs) "
            "WHERE bytes > ?)",
            (self._max_bytes,),
        )


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")
