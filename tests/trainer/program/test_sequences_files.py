"""Readers: what they read, and that a bad row is named by file and line."""

from __future__ import annotations

import json
import random
import wave
from pathlib import Path

import pytest

from shared.sequence_dsl import interleave
from trainer.channels.program.notation import read, write
from trainer.config import ConfigError
from trainer.tasks.sequences import generate
from trainer.tasks.sequences_files import read_sequences


def test_json_lines_hold_sequences_texts_and_json_in_strings(tmp_path: Path) -> None:
    rows = [
        {"sequence": [1, 2, 3]},
        {"sequence": "[4, 5]", "program": "output = set_list([4, 5])"},
        {"text": "Write [9] a program for the following sequence: [6, 7, 8] thanks"},
    ]
    file = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in rows]
    lines.append(json.dumps(json.dumps({"prompt": "### Input Sequence:\n[10, 11]\n"})))
    file.write_text("\n".join([*lines[:2], "", *lines[2:]]) + "\n")
    found = read_sequences(file)
    assert [row.sequence for row in found] == [(1, 2, 3), (4, 5), (6, 7, 8), (10, 11)]
    assert str(found[1].program) == "output = set_list([4, 5])\n" and found[2].place == f"{file}:4"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "a row is an object"),
        ('{"other": 1}', "neither `sequence` nor `text`"),
        ('{"sequence": []}', "not empty"),
        ('{"sequence": [1, 300]}', r"sequence\[1\]=300"),
        ('{"sequence": [1, -1]}', r"sequence\[1\]=-1"),
        ('{"sequence": [1.5]}', r"sequence\[0\]=1.5"),
        ('{"sequence": [true]}', r"sequence\[0\]=True"),
        ('{"text": "no list here"}', "no list of numbers"),
        ('{"text": "Following sequence: [1, 2.5], before it [9, 9]"}', "no list of numbers.*2.5"),
        ('{"text": "Following sequence: [1, ' + "7" * 5000 + ']"}', "no list of numbers"),
        ("[" * 100_000, "not JSON"),
        ('{"sequence": [1], "program": "import os"}', "program"),
        ('{"sequence": [1], "program": "output = repeat_num(1' + "+1" * 400 + ', 7)"}', "program"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"sequence": [1]}\n\n' + line + "\n")
    with pytest.raises(ConfigError, match=said) as error:
        read_sequences(file)
    assert str(error.value).startswith(f"{file}:3:")


def test_a_list_in_a_text_may_be_written_as_people_do(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for text, found in (("[007, 1]", (7, 1)), ("[7, 1,  ]", (7, 1)), ("a [x] then [ 3 ,4 ]", (3, 4))):
        file.write_text(json.dumps({"text": text}))
        assert read_sequences(file)[0].sequence == found


def test_number_lists_and_their_bad_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1, 2,3\n[4 5;6]\n")
    assert [row.sequence for row in read_sequences(file)] == [(1, 2, 3), (4, 5, 6)]
    file.write_text("1, 2\n1, x\n")
    with pytest.raises(ConfigError, match=r"a\.csv:2: 'x' is no whole number"):
        read_sequences(file)


def test_bytes_text_dna_and_sound_are_cut_into_chunks(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(200)))
    assert [len(row.sequence) for row in read_sequences(tmp_path / "a.bin")] == [128, 72]
    assert len(read_sequences(tmp_path / "a.bin", limit=1)) == 1
    (tmp_path / "a.txt").write_text("é")
    assert read_sequences(tmp_path / "a.txt")[0].sequence == (195, 169)
    (tmp_path / "b.txt").write_bytes(b"ab\r\n")
    assert read_sequences(tmp_path / "b.txt")[0].sequence == tuple(b"ab\r\n")
    (tmp_path / "a.fasta").write_text(">name\nACGT\nnacg\n")
    assert read_sequences(tmp_path / "a.fasta", chunk=6)[0].sequence == (0, 1, 2, 3, 4, 0)
    (tmp_path / "b.fasta").write_text(">name\nAC!T\n")
    with pytest.raises(ConfigError, match=r"b\.fasta:2: '!' is no base"):
        read_sequences(tmp_path / "b.fasta")
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\x01\x02\x03\x04")
    assert read_sequences(tmp_path / "a.wav")[0].sequence == (1, 2, 3, 4)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_sequences(tmp_path / "nowhere.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="no sequence"):
        read_sequences(tmp_path / "empty.bin")
    (tmp_path / "no.wav").write_bytes(b"text")
    with pytest.raises(ConfigError, match="not audio"):
        read_sequences(tmp_path / "no.wav")


def test_the_notation_gives_every_sequence_back() -> None:
    for pair in generate(None, 1500, 6, max_length=400):
        assert read(write(pair.sequence)) == list(pair.sequence)
    assert write([7, 7, 7, 1, 2, 3, 4, 9]) == "7 * 3 1 .. 4 9"
    assert write([5, 1, 6, 1, 7, 1, 8, 1]) == "{ 5 .. 8 / 1 * 4 }"
    # As the DSL interleaves: what the longer list has left comes after, however it was made.
    assert write([5, 1, 6, 1, 7, 1, 8, 1, 9, 10, 11]) == "{ 5 .. 11 / 1 * 4 }"
    assert write([9, 2, 8, 4, 1, 6, 5, 8, 10, 12, 14, 16]) == "{ 9 8 1 5 / 2 ..2 16 }"
    assert write([221, 114] * 4 + [114] * 9) == "{ 221 * 4 / 114 * 13 }"
    nested = interleave(interleave(list(range(216, 226)), list(range(114, 122))), list(range(40, 60, 4)))
    assert write([*nested, 3]) == "{ { 216 .. 225 / 114 .. 121 } / 40 ..4 56 } 3"
    assert write([40, 37, 34, 31]) == "40 ..-3 31" and read("40 ..-3 31") == [40, 37, 34, 31]
    rng = random.Random(1)
    for _ in range(2000):
        sequence = [rng.randrange(5) for _ in range(rng.randrange(1, 60))]
        assert read(write(sequence)) == sequence
    with pytest.raises(ValueError, match="not this notation"):
        read("7 x 3")
