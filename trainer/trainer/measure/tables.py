"""From records to the rows people read. Pure arithmetic: no services, no models, no files."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainer.measure.record import Record
from trainer.measure.statistics import Interval, bootstrap_mean, bootstrap_ratio, mean, median, wilson
from trainer.tasks.starter import composition_of

COLUMNS = ("", "n", "pass rate", "95 %", "tokens", "95 %", "bytes", "vs untrained", "vs reference")


@dataclass(frozen=True)
class Row:
    """One sender on one set of tasks. An absent figure (nothing to compare with) is None.

    kind                     student, untrained, baseline or control
    pass_rate                share of tasks whose program passed all tests, Wilson 95 %
    tokens                   tokens per message, mean over all tasks, passed or not, bootstrap 95 %
    tokens_passed            the same over the tasks that passed
    bytes                    UTF-8 bytes per message
    compression_vs_untrained mean tokens of the untrained student / mean tokens of this sender
    compression_vs_reference mean tokens of the reference code / mean tokens of this sender
    outcomes                 how many verdicts of each kind; messages that do not count appear as why
    """

    name: str
    kind: str
    n: int
    passed: int
    pass_rate: Interval
    tokens: Interval
    tokens_passed: float | None
    bytes: float
    compression_vs_untrained: Interval | None
    compression_vs_reference: Interval | None
    outcomes: dict[str, int]
    assurance: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON: an interval becomes {value, low, high}."""
        return {k: v._asdict() if isinstance(v, Interval) else v for k, v in self.__dict__.items()}


def row_from_json(stored: Mapping[str, Any]) -> Row:
    """Return the row that `as_json` wrote. Raises ValueError if another version's did."""
    interval = set(Interval._fields)
    try:
        fields: dict[str, Any] = {
            k: Interval(**v) if isinstance(v, dict) and set(v) == interval else v for k, v in stored.items()
        }
        return Row(**fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"figures of another version ({error}); evaluate the run again") from error


def row_of(
    name: str,
    kind: str,
    records: Sequence[Record],
    *,
    untrained_tokens: Mapping[str, int] | None = None,
    reference_tokens: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> Row:
    """Work out one row.

    records           one per task
    untrained_tokens  by task id, what the untrained student sent; None where there is none
    reference_tokens  by task id, the reference code's tokens
    raises            ValueError without records; KeyError if a comparison misses a task
    """
    passed = [r for r in records if r.passed]
    return Row(
        name=name,
        kind=kind,
        n=len(records),
        passed=len(passed),
        pass_rate=wilson(len(passed), len(records)),
        tokens=bootstrap_mean([r.tokens for r in records]),
        tokens_passed=mean([r.tokens for r in passed]) if passed else None,
        bytes=mean([byte_length(r.message) for r in records]),
        compression_vs_untrained=_compression(records, untrained_tokens),
        compression_vs_reference=_compression(records, reference_tokens),
        outcomes=dict(Counter(r.refused or r.outcome for r in records)),
        assurance=dict(Counter(r.assurance for r in records)),
        notes=list(notes),
    )


def byte_length(text: str) -> int:
    """Return the UTF-8 bytes of a text; a lone surrogate counts as the three bytes it would need."""
    return len(text.encode("utf-8", "surrogatepass"))


def _compression(records: Sequence[Record], other: Mapping[str, int] | None) -> Interval | None:
    """Return how many times fewer tokens the records have than the other sender on the same tasks."""
    if other is None:
        return None
    ratio = bootstrap_ratio([other[r.task_id] for r in records], [r.tokens for r in records])
    return None if math.isnan(ratio.value) else ratio


@dataclass(frozen=True)
class Family:
    """One group of tasks: how many, the share that passed (Wilson 95 %), mean tokens per message."""

    name: str
    n: int
    pass_rate: Interval
    tokens: float


def by_family(records: Sequence[Record]) -> list[Family]:
    """Group by family, the worst first: an average hides a family that died."""
    return _grouped(records, lambda record: {record.family or "(no family)"})


def by_part(records: Sequence[Record]) -> list[Family]:
    """Group by what the tasks are made of, the worst first; a record counts in each of its parts."""
    return _grouped(records, _parts)


def _parts(record: Record) -> set[str]:
    """Return a starter task's source, filter, map and reduction, or the parts of a family ("map+sum")."""
    made = composition_of(record.task_id)
    if made is None:
        return set(record.family.split("+")) - {""}
    # Of two kinds there may be parts of one name.
    return {f"{kind}: {name}" for kind, name in made._asdict().items()}


def _grouped(records: Sequence[Record], names: Callable[[Record], set[str]]) -> list[Family]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for group in names(record):
            groups[group].append(record)
    found = [
        Family(name, len(g), wilson(sum(r.passed for r in g), len(g)), mean([r.tokens for r in g]))
        for name, g in groups.items()
    ]
    return sorted(found, key=lambda f: (f.pass_rate.value, f.name))


def median_rows(tables: Sequence[Sequence[Row]]) -> list[Row]:
    """Return each sender's median over the runs, with the range over the runs in place of the interval.

    tables   one table per run, all of the same tasks; senders are matched by name, and only those that every
             run has are kept
    """
    found = []
    for first in tables[0]:
        same = [row for table in tables for row in table if row.name == first.name]
        if len(same) == len(tables):
            found.append(
                replace(
                    first,
                    passed=round(median([row.passed for row in same])),
                    pass_rate=_spread([row.pass_rate for row in same]),
                    tokens=_spread([row.tokens for row in same]),
                    bytes=median([row.bytes for row in same]),
                    tokens_passed=_median_present([row.tokens_passed for row in same]),
                    compression_vs_untrained=_spread([row.compression_vs_untrained for row in same]),
                    compression_vs_reference=_spread([row.compression_vs_reference for row in same]),
                    outcomes={},
                    assurance={},
                    notes=[],
                )
            )
    return found


def _median_present(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that are there; None if none is."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _spread(intervals: Sequence[Interval | None]) -> Any:
    """Return median, least and greatest of the runs' point estimates; None if one run has none."""
    values = [interval.value for interval in intervals if interval is not None]
    return Interval(median(values), min(values), max(values)) if len(values) == len(intervals) else None


def as_text(rows: Sequence[Row], spread: str = "95 %") -> str:
    """Return the table for a terminal, one line per sender, notes below it.

    spread   what the interval is: 95 %, or the range over the seeds
    """
    head = [spread if column == "95 %" else column for column in COLUMNS]
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = [
        "  ".join(
            c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    texts.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"* {row.name}: {row.notes[0]}" for row in rows if row.notes]
    return "\n".join([*(t.rstrip() for t in texts), *notes])


def _cells(row: Row) -> list[str]:
    """Return the cells of one line of the table."""
    return [
        row.name + ("*" if row.notes else ""),
        str(row.n),
        f"{row.pass_rate.value:.3f}",
        f"{row.pass_rate.low:.2f}-{row.pass_rate.high:.2f}",
        f"{row.tokens.value:.1f}",
        f"{row.tokens.low:.1f}-{row.tokens.high:.1f}",
        f"{row.bytes:.0f}",
        times(row.compression_vs_untrained),
        times(row.compression_vs_reference),
    ]


def times(ratio: Interval | None) -> str:
    """Return a ratio as it is said, e.g. "2.61x"; a dash where there is nothing to compare."""
    return "-" if ratio is None else f"{ratio.value:.2f}x"


def finite(value: Any) -> Any:
    """Return JSON-like data with every nan and infinity replaced by None, so that any reader can read it."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
