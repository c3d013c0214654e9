"""Sequences of bytes from files: JSON lines, number lists, DNA, audio, text, or any bytes at all.

Example rows of a .jsonl file; `program` is optional and only a warm start needs it:
    {"sequence": [7, 7, 7, 10, 11], "program": "output = ..."}
    {"text": "Write a program for the following sequence: [7, 7, 7, 10, 11] ..."}
A row may also be a JSON string that holds such an object. A bad row is an error that names file and line.
"""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trainer.channels.program.program import NotDsl, Program, parse
from trainer.config import ConfigError

Kind = Literal["auto", "jsonl", "numbers", "dna", "audio", "text", "bytes"]
SUFFIXES: dict[str, Kind] = {
    ".jsonl": "jsonl", ".json": "jsonl", ".csv": "numbers", ".numbers": "numbers", ".fa": "dna",
    ".fasta": "dna", ".fna": "dna", ".dna": "dna", ".wav": "audio", ".txt": "text", ".md": "text",
}  # fmt: skip
# Kinds whose files say where a sequence ends; the others are cut.
WHOLE = ("jsonl", "numbers")
CHUNK = 128
BASES = "ACGTNRYSWKMBDHV"  # IUPAC's letters; gaps are none of a sequence's
_LIST = re.compile(r"\[\s*-?[0-9]{1,9}(?:\s*,\s*-?[0-9]{1,9})*\s*,?\s*\]")
_TOLD = re.compile(r"(?:following|input) sequence\s*:", re.IGNORECASE)


class Row(NamedTuple):
    """A sequence and where it stands.

    place    file and line, or file and byte
    program  one that makes it, where the file says so
    """

    sequence: tuple[int, ...]
    place: str
    program: Program | None = None


def kind_of(path: Path, kind: Kind = "auto") -> Kind:
    """Return what a file holds; auto goes by its name's ending: what has none of the known ones is bytes."""
    return SUFFIXES.get(path.suffix.lower(), "bytes") if kind == "auto" else kind


def read_sequences(
    path: Path, kind: Kind = "auto", *, chunk: int = CHUNK, limit: int | None = None
) -> list[Row]:
    """Return the sequences of a file.

    kind    see kind_of
    chunk   bytes of a sequence, for every kind but those of WHOLE; the last one may be shorter
    limit   read only so many
    raises  ConfigError naming the file, the line and the value; or that nothing is there
    """
    kind = kind_of(path, kind)
    try:
        rows = _rows(path, kind, chunk)
        found = [row for row, _ in zip(rows, range(limit), strict=False)] if limit else list(rows)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give a file that can be read") from error
    except (UnicodeDecodeError, wave.Error, EOFError) as error:
        raise ConfigError(
            f"{path}: not {kind}: {error or type(error).__name__}; name what it is, e.g. bytes"
        ) from error
    if not found:
        raise ConfigError(f"{path}: no sequence in it")
    return found


def _rows(path: Path, kind: Kind, chunk: int) -> Iterator[Row]:
    match kind:
        case "jsonl" | "numbers":
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        place = f"{path}:{number}"
                        yield _json_row(line, place) if kind == "jsonl" else _number_row(line, place)
            return
        case "audio":
            with wave.open(str(path), "rb") as sound:
                data = sound.readframes(sound.getnframes())
        case "text":
            data = path.read_bytes()
            data.decode()  # It is text, but its bytes are the sequence: line ends as they are.
        case "dna":
            data = _dna(path)
        case _:
            data = path.read_bytes()
    for start in range(0, len(data), chunk):
        yield Row(tuple(data[start : start + chunk]), f"{path} byte {start}")


def chunks(data: bytes, chunk: int = CHUNK) -> list[tuple[int, ...]]:
    """Return bytes cut into sequences; the last one may be shorter."""
    return [tuple(data[start : start + chunk]) for start in range(0, len(data), chunk)]


def _json_row(line: str, place: str) -> Row:
    value = _loaded(line, place)
    value = _loaded(value, place) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: a {type(value).__name__}; a row is an object with `sequence` or `text`")
    if "sequence" in value:
        sequence = value["sequence"]
        sequence = _loaded(sequence, place) if isinstance(sequence, str) else sequence
    elif isinstance(told := value.get("text", value.get("prompt")), str):
        sequence = _told(told, place)
    else:
        raise ConfigError(f"{place}: neither `sequence` nor `text` among {sorted(value)}")
    program = value.get("program")
    try:
        read = parse(str(program)) if program is not None else None
    except NotDsl as error:
        raise ConfigError(f"{place}: program: {error}; leave the field out") from error
    return Row(checked(sequence, place), place, read)


def _loaded(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON ({error}): {text.strip()[:60]!r}") from error


def _told(text: str, place: str) -> Any:
    """Return the list that a text speaks of: the one after "following sequence:", else the first."""
    start = _TOLD.search(text)
    if start:
        opened = text.find("[", start.end())
        found = _LIST.match(text, opened) if opened >= 0 else None
    else:
        found = _LIST.search(text)
    if found is None:
        said = text[start.end() if start else 0 :].strip()
        raise ConfigError(f"{place}: no list of numbers after `following sequence:` in {said[:60]!r}")
    return [int(number) for number in re.findall(r"-?[0-9]+", found[0])]


def _number_row(line: str, place: str) -> Row:
    numbers = []
    for item in re.split(r"[,;\s]+", line.strip().strip("[]").strip()):
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", item):
            raise ConfigError(
                f"{place}: {item[:30]!r} is no whole number from 0 to 255; one sequence a line, by commas"
            )
        numbers.append(int(item))
    return Row(checked(numbers, place), place)


def checked(sequence: Any, place: str) -> tuple[int, ...]:
    """Return a sequence of bytes. Raises ConfigError saying which item is none."""
    if not isinstance(sequence, list | tuple) or not sequence:
        raise ConfigError(f"{place}: sequence={str(sequence)[:60]}: give a list of numbers, not empty")
    for i, item in enumerate(sequence):
        if type(item) is not int or not 0 <= item <= 255:
            raise ConfigError(f"{place}: sequence[{i}]={str(item)[:30]}: a byte is a whole number, 0 to 255")
    return tuple(sequence)


def _dna(path: Path) -> bytes:
    """Return FASTA's or plain letters as 0, 1, 2, 3 for A, C, G, T and the ambiguity codes after them."""
    found = bytearray()
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith((">", ";")):
                continue
            for letter in line.strip().upper():
                if letter not in BASES:
                    raise ConfigError(f"{path}:{number}: {letter!r} is no base; a base is one of {BASES}")
                found.append(BASES.index(letter))
    return bytes(found)
