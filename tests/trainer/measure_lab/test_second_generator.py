"""The recipe of the second generator: what it is trained on, without training it."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.starter.build import STUDENT_DIR, Pairs, main
from trainer.starter.tokenizer import train_byte_tokenizer
from trainer.tasks.starter import generate

TASKS = generate("train", 60, 3)


@pytest.fixture(scope="module")
def spoken() -> Any:
    from trainer.measure.students import load_tokenizer

    return load_tokenizer(str(STUDENT_DIR))


@pytest.fixture(scope="module")
def own() -> Any:
    return train_byte_tokenizer([made.task.reference for made in TASKS])


def test_it_cuts_code_otherwise_and_gives_every_byte_back(spoken: Any, own: Any) -> None:
    code = TASKS[0].task.reference
    ids = own.encode(code)
    assert own.decode(ids) == code
    pieces = [own.decode([i]) for i in ids]
    assert pieces != [spoken.decode([i]) for i in spoken.encode(code, add_special_tokens=False)]


def test_it_reads_messages_in_the_first_ones_words(spoken: Any, own: Any) -> None:
    first = Pairs("generator", TASKS, spoken, seed=5)
    second = Pairs("generator", TASKS, own, seed=5, spoken=spoken)
    for i in range(20):
        said = [
            pairs.tokenizer.decode([t for t, label in zip(*item.values(), strict=True) if label == -100])
            for pairs, item in ((first, first[i]), (second, second[i]))
        ]
        assert "".join(said[0].split()) == "".join(said[1].split())


def test_it_answers_with_the_reference_and_an_end(spoken: Any, own: Any) -> None:
    pairs = Pairs("generator", TASKS, own, seed=5, spoken=spoken)
    for i in range(20):
        answer = [t for t in pairs[i]["labels"] if t != -100]
        assert answer[-1] == own.eos_token_id
        assert own.decode(answer[:-1]) == TASKS[i].task.reference


def test_it_needs_a_place_of_its_own(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "second"])
    assert "--second-out" in capsys.readouterr().err
