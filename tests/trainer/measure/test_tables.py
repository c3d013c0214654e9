"""Rows worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainer.measure.record import Record
from trainer.measure.tables import as_text, by_family, by_part, finite, median_rows, row_from_json, row_of


def record(
    task_id: str, tokens: int, outcome: str = "passed", refused: str = "", family: str = "a+b"
) -> Record:
    return Record(task_id, family, "x" * tokens, tokens, refused, "", outcome, "value")  # type: ignore[arg-type]


RECORDS = [
    record("1", 10),
    record("2", 20),
    record("3", 5, "failed"),
    record("4", 5, "truncated", "truncated"),
]
UNTRAINED = {"1": 40, "2": 40, "3": 40, "4": 40}
REFERENCE = {"1": 20, "2": 20, "3": 20, "4": 20}


def test_a_row_is_what_a_hand_works_out() -> None:
    row = row_of("s", "student", RECORDS, untrained_tokens=UNTRAINED, reference_tokens=REFERENCE)
    assert (row.n, row.passed, row.pass_rate.value) == (4, 2, 0.5)
    assert row.tokens.value == 10  # failed and truncated messages count
    assert row.tokens_passed == 15
    assert row.bytes == 10
    assert row.compression_vs_untrained is not None and row.compression_vs_untrained.value == 4
    assert row.compression_vs_reference is not None and row.compression_vs_reference.value == 2
    assert row.outcomes == {"passed": 2, "failed": 1, "truncated": 1}


def test_a_truncated_message_has_failed_even_if_its_program_passes() -> None:
    assert not record("1", 3, "passed", "truncated").passed


def test_bytes_are_utf8_not_characters() -> None:
    row = row_of("s", "student", [Record("1", "", "λ→", 2, "", "", "passed", "value")])
    assert row.bytes == 2 + 3


def test_an_empty_message_is_compared_with_nothing() -> None:
    row = row_of("empty", "control", [record("1", 0, "failed")], untrained_tokens=UNTRAINED)
    assert row.compression_vs_untrained is None
    assert "-" in as_text([row])


def test_a_row_survives_json() -> None:
    row = row_of("s", "student", RECORDS, untrained_tokens=UNTRAINED, notes=["why"])
    assert row_from_json(json.loads(json.dumps(row.as_json()))) == row


@pytest.mark.parametrize("stored", [{"name": "s"}, {"name": "s", "of_another": 1}, "a row", None])
def test_a_row_of_another_version_is_said_to_be_one(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"of another version \(.+\); evaluate the run again"):
        row_from_json(stored)


def test_families_stand_worst_first_and_a_task_counts_in_each_of_its_parts() -> None:
    found = [record("1", 4, family="odd+sum"), record("2", 6, "failed", family="even+sum")]
    assert [(f.name, f.n, f.pass_rate.value) for f in by_family(found)] == [
        ("even+sum", 1, 0),
        ("odd+sum", 1, 1),
    ]
    assert [(f.name, f.n, f.pass_rate.value) for f in by_part(found)] == [
        ("even", 1, 0),
        ("sum", 2, 0.5),
        ("odd", 1, 1),
    ]


def test_a_starter_task_counts_in_all_its_four_parts_and_no_two_kinds_share_a_name() -> None:
    ids = ("starter/list+indivisible+quotient+list/0", "starter/list+even+all+sum/1")
    found = [record(ids[0], 4, "failed", family="list+list"), record(ids[1], 6, family="list+sum")]
    assert [(f.name, f.n, f.pass_rate.value) for f in by_part(found)] == [
        ("filter: indivisible", 1, 0), ("map: quotient", 1, 0), ("reduction: list", 1, 0),
        ("source: list", 2, 0.5),
        ("filter: even", 1, 1), ("map: all", 1, 1), ("reduction: sum", 1, 1),
    ]  # fmt: skip


def test_the_median_over_runs_is_each_figures_own_with_its_range() -> None:
    tables = [
        [row_of("s", "student", [record("1", tokens, outcome)], untrained_tokens=UNTRAINED)]
        for tokens, outcome in ((10, "passed"), (20, "failed"), (8, "passed"))
    ]
    (row,) = median_rows(tables)
    assert row.pass_rate == (1, 0, 1)
    assert row.tokens == (10, 8, 20)
    assert row.compression_vs_untrained == (4, 2, 5)


def test_a_sender_that_one_run_lacks_is_left_out_of_the_median() -> None:
    row = row_of("s", "student", RECORDS)
    other = row_of("t", "baseline", RECORDS)
    assert [r.name for r in median_rows([[row, other], [row]])] == ["s"]


def test_numbers_that_json_does_not_know_become_null() -> None:
    assert finite({"a": [float("nan"), 1.5, (float("inf"),)]}) == {"a": [None, 1.5, [None]]}


def test_no_records_make_no_row() -> None:
    with pytest.raises(ValueError, match="n=0"):
        row_of("s", "student", [])
