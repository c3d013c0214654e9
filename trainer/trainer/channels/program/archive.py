"""Files as programs: an archive holds the programs that make a file's chunks, and the rest compressed.

    magic 4 | version 1 | SHA-256 of the file 32 | varint: file bytes | varint: chunk bytes
    | varint: bytes of the bit string | bit string: a flag for each chunk, then the code of each flagged one's
    program | method 1 | the other chunks, joined, by that method | CRC-32 of all before it 4

The rule that chooses is the evaluation's (measure/programs.py). Programs are executed by the sandbox when an
archive is opened, as they were when it was made: an archive is a stranger's code. One of a changed byte is
refused by its checksum, and what comes out is checked against the file's own hash. A program that may make
something else on another day, for it asks for the time, for chance or for the machine, is in no archive: see
`lasting`.
"""

from __future__ import annotations

import ast
import hashlib
import lzma
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import zstandard

from trainer.channels.program.bits import Bits, BitsError
from trainer.channels.program.program import NotDsl, parse
from trainer.channels.program.program_code import decode, encode
from trainer.measure.programs import METHODS, choose

MAGIC, VERSION, HASH = b"PSDA", 1, 32
LEAST = len(MAGIC) + 1 + HASH + 8
MAX_BYTES = 1 << 32
# What gives free Python more than its own text says.
_REACHING = {
    "open", "input", "eval", "exec", "compile", "getattr", "vars", "globals", "locals", "dir", "id", "hash",
}  # fmt: skip


class ArchiveError(ValueError):
    """A file is no archive, is damaged, or does not restore what it says. The message says which."""


class Made(NamedTuple):
    """An archive and what it is made of.

    coded          chunks that are programs, of `chunks`
    program_bits   of their codes together
    method         what the other chunks are compressed by, to fallback_bytes
    """

    data: bytes
    chunks: int
    coded: int
    program_bits: int
    method: str
    fallback_bytes: int


def make(data: bytes, chunk: int, programs: Sequence[str | None]) -> Made:
    """Return the archive of a file.

    data      the file
    chunk     bytes of a chunk; the last one may be shorter
    programs  one for each chunk that was executed and makes exactly it, else None
    raises    ValueError if the programs are not one for each chunk
    """
    parts = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    if len(parts) != len(programs):
        raise ValueError(f"{len(programs)} programs for {len(parts)} chunks; give one for each, or None")
    codes = [encode(program) if program is not None else None for program in programs]
    choice = choose(parts, [len(code) if code is not None else None for code in codes], lengths=False)
    flags = "".join("1" if coded else "0" for coded in choice.coded)
    used = [code for code, coded in zip(codes, choice.coded, strict=True) if coded and code is not None]
    bits = _packed(flags + "".join(used))
    body = b"".join((
        MAGIC, bytes([VERSION]), hashlib.sha256(data).digest(), _varint(len(data)), _varint(chunk),
        _varint(len(bits)), bits, bytes([list(METHODS).index(choice.fallback.method)]), choice.fallback.data,
    ))  # fmt: skip
    sealed = body + zlib.crc32(body).to_bytes(4, "big")
    return Made(
        sealed, len(parts), len(used), sum(map(len, used)), choice.fallback.method, len(choice.fallback.data)
    )


def lasting(program: str) -> bool:
    """Whether a program can make one value only, as far as its text says: one of the DSL, or Python that
    imports nothing, reaches for no name with an underscore before it and calls none of _REACHING."""
    try:
        parse(program)
    except NotDsl:
        try:
            nodes = list(ast.walk(ast.parse(program)))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    else:
        return True
    for node in nodes:
        match node:
            case ast.Import() | ast.ImportFrom():
                return False
            case ast.Name(id=name) | ast.Attribute(attr=name) if name.startswith("_") or name in _REACHING:
                return False
    return True


class Opened(NamedTuple):
    """An archive that was read, its programs not yet executed.

    programs  [chunks] the text of a program, or None for a chunk in `rest`
    """

    digest: bytes
    size: int
    chunk: int
    programs: list[str | None]
    rest: bytes

    def restore(self, execute: Callable[[list[str]], Sequence[Sequence[int] | None]]) -> bytes:
        """Return the file.

        execute  values of programs, by the sandbox; None for one without a list of numbers
        raises   ArchiveError if a program does not make a chunk of its size, or the hash is another
        """
        values = iter(execute([program for program in self.programs if program is not None]))
        parts, place = [], 0
        for i, program in enumerate(self.programs):
            wanted = min(self.chunk, self.size - i * self.chunk)
            if program is None:
                part = self.rest[place : place + wanted]
                place += wanted
            else:
                value = next(values)
                if value is None or len(value) != wanted or not all(0 <= item < 256 for item in value):
                    raise ArchiveError(f"chunk {i}: its program does not make {wanted} bytes")
                part = bytes(value)
            parts.append(part)
        data = b"".join(parts)
        if place != len(self.rest) or hashlib.sha256(data).digest() != self.digest:
            raise ArchiveError("what the archive restores is not the file it was made of (SHA-256 differs)")
        return data


def read(archive: bytes) -> Opened:
    """Read an archive. Raises ArchiveError saying what is wrong with it; executes nothing."""
    if archive[:4] != MAGIC:
        raise ArchiveError(f"no archive: it begins with {archive[:4]!r}, not {MAGIC!r}")
    if len(archive) < LEAST or zlib.crc32(archive[:-4]) != int.from_bytes(archive[-4:], "big"):
        raise ArchiveError("damaged: its checksum (CRC-32) does not fit; get it anew")
    if archive[4] != VERSION:
        raise ArchiveError(f"version {archive[4]}; this is for version {VERSION}: update psuedoptimal")
    digest, place = archive[5 : 5 + HASH], 5 + HASH
    size, place = _read_varint(archive, place)
    chunk, place = _read_varint(archive, place)
    length, place = _read_varint(archive, place)
    if size > MAX_BYTES or (size and not chunk) or place + length + 5 > len(archive):
        raise ArchiveError(f"damaged: {size} bytes in chunks of {chunk} do not fit in it")
    bits = Bits("".join(format(byte, "08b") for byte in archive[place : place + length]))
    place += length
    method, data = archive[place], archive[place + 1 : -4]
    count = -(-size // chunk) if size else 0
    try:
        flags = bits.take(count)
        programs = [str(decode(bits)) if flag == "1" else None for flag in flags]
    except BitsError as error:
        raise ArchiveError(f"damaged: {error}") from error
    return Opened(digest, size, chunk, programs, _unpacked(method, data, size))


def _unpacked(method: int, data: bytes, size: int) -> bytes:
    """Undo `pack`. Nothing grows beyond the file's own size, whatever the data says."""
    names = list(METHODS)
    if method >= len(names):
        raise ArchiveError(f"damaged: no method {method}")
    try:
        match names[method]:
            case "raw":
                return data
            case "gzip":
                return zlib.decompressobj(31).decompress(data, size + 1)
            case "xz":
                return lzma.LZMADecompressor().decompress(data, size + 1)
            case _:
                # `decompress` would believe the size that the data itself states.
                with zstandard.ZstdDecompressor().stream_reader(data) as reader:
                    return reader.read(size + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise ArchiveError(f"damaged: {names[method]}: {error}") from error


def _packed(bits: str) -> bytes:
    whole = bits + "0" * (-len(bits) % 8)
    return int(whole, 2).to_bytes(len(whole) // 8, "big") if whole else b""


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ArchiveError("damaged: a number has no end")
