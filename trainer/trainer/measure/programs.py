"""What programs are worth as a code for their sequences, with everything paid for. No torch, no service.

The rule, which the archive follows too: one flag bit for each sequence; a program where one is right and
short enough; all other sequences joined, as they are or by gzip, xz or zstd, whichever is shortest (two bits
say which). Sequences of different lengths also pay for the lengths of those without a program.

Beside it stands the rule of messages that are read one at a time: every sequence pays for itself alone.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import zstandard

from trainer.channels.program.bits import delta
from trainer.channels.program.environment import Rollout
from trainer.channels.program.program import Line, Program
from trainer.channels.program.program_code import length_bits
from trainer.channels.program.record import EXECUTABLE
from trainer.tasks.sequences_transcribe import transcribe

PREFIXES = (16, 32, 64, 128)
Sequence8 = Sequence[int]


def _xz(data: bytes) -> bytes:
    # The preset's own dictionary, 64 MB, takes longer to make than most of what is compressed here.
    size = min(1 << 26, max(1 << 12, len(data)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}]
    return lzma.compress(data, filters=filters)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(data)


def _gzip(data: bytes) -> bytes:
    # The time of day is no part of the data.
    return gzip.compress(data, 9, mtime=0)


METHODS: dict[str, Callable[[bytes], bytes]] = {"raw": bytes, "gzip": _gzip, "xz": _xz, "zstd": _zstd}


class Packed(NamedTuple):
    """Bytes by the best of METHODS."""

    method: str
    data: bytes


def pack(data: bytes) -> Packed:
    """Return bytes by whichever method is shortest, the earlier one of equals."""
    found = [Packed(name, compress(data)) for name, compress in METHODS.items()]
    return min(found, key=lambda packed: len(packed.data))


class Choice(NamedTuple):
    """Which sequences are written as programs, and what all of it takes.

    coded     [N] whether the program is used
    fallback  the other sequences, joined and packed
    bits      of flags, programs, lengths and fallback together
    """

    coded: list[bool]
    fallback: Packed
    bits: int


def choose(
    sequences: Sequence[Sequence8], program_bits: Sequence[int | None], *, lengths: bool = True
) -> Choice:
    """Decide for each sequence between its program and the joined rest.

    sequences     [N] of bytes
    program_bits  [N] the length of a right program's code; None where there is none
    lengths       whether the lengths of the rest have to be told
    """
    everything = 8 * sum(map(len, sequences))
    rest = pack(b"".join(bytes(s) for s, b in zip(sequences, program_bits, strict=True) if b is None))
    failed = 8 * sum(len(s) for s, b in zip(sequences, program_bits, strict=True) if b is None)
    whole = pack(b"".join(map(bytes, sequences)))
    # A program pays where it is below what the rest takes for a byte: known only once the rest is chosen.
    shares = {1.0, 8 * len(whole.data) / everything if everything else 1.0}
    shares |= {8 * len(rest.data) / failed} if failed else set()
    return min((_at(sequences, program_bits, share, lengths) for share in shares), key=lambda c: c.bits)


def _at(
    sequences: Sequence[Sequence8], program_bits: Sequence[int | None], share: float, lengths: bool
) -> Choice:
    coded = [
        bits is not None and bits < share * 8 * len(sequence)
        for sequence, bits in zip(sequences, program_bits, strict=True)
    ]
    others = [s for s, yes in zip(sequences, coded, strict=True) if not yes]
    fallback = pack(b"".join(map(bytes, others)))
    total = len(sequences) + 2 + 8 * len(fallback.data)
    total += sum(b for b, yes in zip(program_bits, coded, strict=True) if yes and b is not None)
    if lengths:
        # One length for all, where it is the same; a bit says so.
        told = others[:1] if len(set(map(len, others))) == 1 else others
        total += 1 + sum(len(delta(len(s))) for s in told)
    return Choice(coded, fallback, total)


def alone(sequence: Sequence8, program_bits: int | None) -> int:
    """Return the bits of one sequence that is sent by itself: a flag, and its program where one is right and
    shorter; else two bits for the method, the length of what follows, and the sequence packed."""
    packed = pack(bytes(sequence)).data
    other = 2 + len(delta(len(packed))) + 8 * len(packed)
    return 1 + (other if program_bits is None else min(program_bits, other))


class Figures(NamedTuple):
    """What programs for N sequences come to.

    accuracy           share of sequences whose program makes exactly them
    executable         share whose program runs and makes `output` a list of whole numbers
    bits_per_program   mean over the right programs; None without one
    bits_per_sequence  everything paid for, by the rule above, over all sequences
    compression_rate   the same over 8 bits a byte
    bits_alone         as bits_per_sequence, but every sequence sent by itself
    rate_alone         the same over 8 bits a byte
    coded              share of sequences written as programs under that rule
    precision          bits of the right programs over those of gzip for the same sequences, one by one;
                       below 1 beats gzip
    prefix_accuracy    share of sequences whose first 16, 32, 64, 128 bytes are right
    """

    n: int
    accuracy: float
    executable: float
    bits_per_program: float | None
    bits_per_sequence: float
    compression_rate: float
    bits_alone: float
    rate_alone: float
    coded: float
    precision: float | None
    prefix_accuracy: dict[int, float]

    @property
    def heldout(self) -> dict[str, object]:
        """The figures as summary.json holds them."""
        return {**self._asdict(), "prefix_accuracy": {str(k): v for k, v in self.prefix_accuracy.items()}}


def padded(value: float | None, form: str) -> str:
    """Return a figure in its column, a dash where there is none."""
    return "-".rjust(int(form.partition(".")[0])) if value is None else format(value, form)


def figures(sequences: Sequence[Sequence8], rollouts: Sequence[Rollout]) -> Figures:
    """Return the figures of one rollout for each sequence. Raises ValueError for none at all."""
    if not sequences:
        raise ValueError("no sequence to measure; give at least one")
    solved = [(s, r) for s, r in zip(sequences, rollouts, strict=True) if r.solved]
    program_bits = [r.bits if r.solved else None for r in rollouts]
    choice = choose(sequences, program_bits)
    by_itself = sum(alone(s, b) for s, b in zip(sequences, program_bits, strict=True))
    raw = 8 * sum(map(len, sequences))
    zipped = sum(8 * len(_gzip(bytes(s))) for s, _ in solved)
    return Figures(
        n=len(sequences),
        accuracy=len(solved) / len(sequences),
        executable=fmean(r.outcome in EXECUTABLE for r in rollouts),
        bits_per_program=fmean(r.bits for _, r in solved) if solved else None,
        bits_per_sequence=choice.bits / len(sequences),
        compression_rate=choice.bits / raw,
        bits_alone=by_itself / len(sequences),
        rate_alone=by_itself / raw,
        coded=fmean(choice.coded),
        precision=sum(r.bits for _, r in solved) / zipped if solved else None,
        prefix_accuracy={
            k: fmean(
                round(r.beginning * len(s)) >= min(k, len(s))
                for s, r in zip(sequences, rollouts, strict=True)
            )
            for k in PREFIXES
        },
    )


class Baseline(NamedTuple):
    """A code that learned nothing: bits per sequence, and over 8 bits a byte."""

    name: str
    bits_per_sequence: float
    compression_rate: float


def baselines(
    sequences: Sequence[Sequence8], truth: Sequence[tuple[Program, Program]] = ()
) -> list[Baseline]:
    """Return what the same sequences take by other means.

    truth  [N] the generator's program for each, as written and shortened; empty where it is not known.
           With its flag bit, as any program has
    """
    n, joined = len(sequences), b"".join(map(bytes, sequences))
    found: dict[str, float] = {}
    for name in ("gzip", "xz", "zstd"):
        found[f"{name}, one by one"] = sum(8 * len(METHODS[name](bytes(s))) for s in sequences)
        found[f"{name}, joined"] = 8 * len(METHODS[name](joined))
    found["order-0 entropy"] = entropy(joined) * len(joined)
    found["literal program"] = sum(length_bits(literal(s)) + 1 for s in sequences)
    found["runs, transcribed"] = sum(length_bits(transcribe(s)) + 1 for s in sequences)
    if truth:
        found["ground truth, as written"] = sum(length_bits(one) + 1 for one, _ in truth)
        found["ground truth, shortened"] = sum(length_bits(two) + 1 for _, two in truth)
    return [Baseline(name, bits / n, bits / (8 * len(joined))) for name, bits in found.items()]


def literal(sequence: Sequence8) -> Program:
    """Return the program that only writes its sequence down."""
    return Program((Line("set_list", (tuple(sequence),)),))


def entropy(data: bytes) -> float:
    """Return the order-0 entropy in bits per byte, the table of frequencies unpaid."""
    return -sum(c / len(data) * math.log2(c / len(data)) for c in Counter(data).values())
