"""The generator: what it gives out is true, its splits never meet, and a shortened program is the same."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from trainer.channels.program.program import OPERATIONS, parse, values
from trainer.channels.program.program_code import length_bits
from trainer.config import ConfigError
from trainer.config_program import ProgramConfig
from trainer.preflight import check_program
from trainer.tasks.sequences import generate, split_of
from trainer.tasks.sequences_load import _generated, load_splits
from trainer.tasks.sequences_shorten import shorten
from trainer.tasks.sequences_transcribe import transcribe


def test_a_pairs_program_makes_its_sequence_of_bytes_and_its_text_is_read_back() -> None:
    for pair in generate(None, 1000, 3):
        assert tuple(values(pair.program)[-1]) == pair.sequence
        assert 2 <= len(pair.sequence) <= 128 and min(pair.sequence) >= 0 and max(pair.sequence) < 256
        assert parse(str(pair.program)) == pair.program


def test_the_same_seed_gives_the_same_pairs_and_another_one_others() -> None:
    assert generate("train", 50, 1) == generate("train", 50, 1)
    assert generate("train", 50, 1) != generate("train", 50, 2)


def test_splits_never_meet_and_sequences_come_once() -> None:
    test = {pair.sequence for pair in generate("test", 200, 1)}
    train = {pair.sequence for pair in generate("train", 2000, 1)}
    assert len(test) == 200 and len(train) == 2000 and not test & train
    assert all(split_of(sequence) == "test" for sequence in test)


def test_none_is_none() -> None:
    assert generate("train", 0, 1) == []
    assert len(_generated(1, 128, set())) == 1


def test_excluded_sequences_do_not_come() -> None:
    first = [pair.sequence for pair in generate("test", 20, 1)]
    again = [pair.sequence for pair in generate("test", 20, 1, exclude=set(first[:5]))]
    assert not set(first[:5]) & set(again) and set(first[5:]) <= set(again)


def test_every_operation_occurs() -> None:
    found = Counter(line.operation for pair in generate(None, 4000, 2) for line in pair.program.lines)
    assert set(OPERATIONS) <= set(found)
    assert min(found[name] for name in OPERATIONS) >= 10


def test_a_shortened_program_has_the_same_output_and_is_no_longer() -> None:
    saved = 0
    for pair in generate(None, 1000, 4, max_length=400):
        short = shorten(pair.program)
        assert tuple(values(short)[-1]) == pair.sequence
        assert length_bits(short) <= length_bits(pair.program)
        saved += length_bits(pair.program) - length_bits(short)
        assert shorten(short) == short
    assert saved > 1000


def test_shortening_finds_what_is_worked_by_hand() -> None:
    program = parse(
        "a = range_func_up(1, 5)\nb = add_item_list(a, 5)\nc = concatenate(a, b)\n"
        "d = set_list([9, 3])\ne = concatenate(c, d)\nunused = repeat_num(9, 9)\noutput = e"
    )
    assert str(shorten(program)) == (
        "sequence_1 = range_func_up(1, 10)\nsequence_2 = set_list([9, 3])\n"
        "output = concatenate(sequence_1, sequence_2)\n"
    )


def test_half_of_the_training_sequences_are_of_half_the_length_and_none_is_held_out() -> None:
    config = ProgramConfig(train_sequences=121, validation_sequences=20, heldout_sequences=30, max_length=100)
    splits = load_splits(config)
    assert len(set(splits.train)) == len(splits.train) == 121
    assert all(len(sequence) <= 50 for sequence in splits.train[::2])
    assert 50 < max(len(sequence) for sequence in splits.train) <= 100
    assert not set(splits.train) & {*splits.validation, *splits.heldout}
    short = load_splits(config.model_copy(update={"max_length": 20, "train_sequences": 7}))
    assert len(short.train) == 7 and max(map(len, short.train)) <= 20


def test_a_file_that_would_be_cut_longer_than_what_is_taken_is_refused_before_anything_begins(
    tmp_path: Path,
) -> None:
    data, lines = tmp_path / "data.bin", tmp_path / "lines.csv"
    data.write_bytes(random.Random(1).randbytes(10_000))
    lines.write_text("1,2,3\n4,5,6\n7,8\n1,4\n", encoding="utf-8")
    small = ProgramConfig(data_path=str(lines), eval_data_path=str(lines), max_length=16, heldout_sequences=1)
    assert len(load_splits(small).train) == 1  # a file of lines is not cut: chunk says nothing about it
    for name in ("data_path", "eval_data_path"):
        config = small.model_copy(update={name: str(data), "model_name": "starter"})
        for refused in (load_splits, check_program):
            with pytest.raises(ConfigError, match=f"{name}=.*chunk=128.*max_length=16.*--chunk 16, or --max"):
                refused(config)
    cut = load_splits(small.model_copy(update={"data_path": str(data), "chunk": 16}))
    assert len(cut.train) == 625


def test_a_transcribed_program_makes_any_sequence_of_bytes() -> None:
    pairs, rng = generate(None, 500, 4), random.Random(2)
    anything = [
        tuple(rng.randrange(rng.choice((3, 256))) for _ in range(rng.randrange(1, 70))) for _ in range(500)
    ]
    for sequence in [*anything, *(pair.sequence for pair in pairs)]:
        assert tuple(values(transcribe(sequence))[-1]) == sequence
    # It is what the runs say, no more: usually longer than what made the sequence, seldom shorter.
    transcribed, shortened = (
        sum(length_bits(program) for program in programs)
        for programs in ((transcribe(p.sequence) for p in pairs), (shorten(p.program) for p in pairs))
    )
    assert 1.1 < transcribed / shortened < 1.5
    with pytest.raises(ValueError, match="empty sequence"):
        transcribe([])


def test_a_transcribed_program_says_runs_in_turn_falling_ones_and_equal_ones_once() -> None:
    sequence = [221, 114] * 11 + [114] * 20 + list(range(9, 0, -1)) + [77, 200, 3, 90] + list(range(9, 0, -1))
    assert str(transcribe(sequence)).splitlines() == [
        "sequence_1 = repeat_num(11, 221)",
        "sequence_2 = repeat_num(31, 114)",
        "sequence_3 = interleave(sequence_1, sequence_2)",
        "sequence_4 = range_func_up(1, 9)",
        "sequence_5 = reverse_list(sequence_4)",
        "sequence_6 = set_list([77, 200, 3, 90])",
        "output = concatenate(sequence_3, sequence_5, sequence_6, sequence_5)",
    ]
