"""The starter world: tasks, shorthand, and the committed weights."""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

import pytest

from trainer.cli_demo import add_arguments
from trainer.config import load_yaml
from trainer.starter.build import GENERATOR_DIR, STUDENT_DIR
from trainer.starter.card import write_card
from trainer.starter.sequences_build import CODER_DIR
from trainer.starter.shorthand import shorten, tokenize_marked
from trainer.tasks.starter import (
    SPLITS,
    Composition,
    compositions,
    fresh_tests,
    generate,
    make_task,
    plain,
    starter_tasks,
)

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(GENERATOR_DIR)


def test_no_composition_stands_in_two_splits():
    found = {split: set(compositions(split)) for split in SPLITS}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]
    assert len(found["train"]) > 1000 and len(found["test"]) > 200


def test_every_part_of_a_test_composition_is_met_in_training():
    train = compositions("train")
    for held_out in compositions("test"):
        for field in Composition._fields:
            assert any(getattr(known, field) == getattr(held_out, field) for known in train), (
                held_out,
                field,
            )


def test_new_tests_are_drawn_of_the_grammars_own_references_whatever_a_row_calls_itself(tmp_path):
    tasks = [task for seed in (0, 5) for task in starter_tasks("test", 60, seed)]
    assert sum(bool(fresh_tests(task, 1)) for task in tasks) >= 110  # some hardly ever answer otherwise
    ran, task = tmp_path / "ran", tasks[0]
    foreign = f"open({str(ran)!r}, 'w')"
    for other in (
        task._replace(reference=f"{task.reference}\n{foreign}"),
        task._replace(reference=foreign),
        task._replace(reference=f"def f(n=({foreign})): return n", entry_point="f"),
        task._replace(task_id=f"{task.task_id.rpartition('+')[0]}/0"),
        task._replace(entry_point="steal"),
    ):
        assert fresh_tests(other, 1) == () and not ran.exists()


@pytest.mark.parametrize("n", [0, -3])
def test_no_tasks_are_refused(n):
    with pytest.raises(ValueError, match=f"n={n}: ask for at least one"):
        generate("test", n)


def test_thousands_of_distinct_tasks_come_from_the_train_split():
    tasks = starter_tasks("train", 8000, seed=3)
    assert len({(task.text, task.signature) for task in tasks}) == 8000
    assert len({task.task_id for task in tasks}) == 8000


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others():
    assert starter_tasks("test", 50, seed=1) == starter_tasks("test", 50, seed=1)
    assert starter_tasks("test", 50, seed=1) != starter_tasks("test", 50, seed=2)


def test_more_tasks_than_a_split_holds_is_refused():
    with pytest.raises(ValueError, match="ask for fewer"):
        starter_tasks("validation", 1_000_000)


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="split='dev'"):
        compositions("dev")


@pytest.mark.parametrize("split", SPLITS)
def test_every_reference_passes_its_own_tests(split):
    for task in starter_tasks(split, 150, seed=5):
        namespace: dict[str, object] = {}
        exec(task.reference, namespace)
        for test in task.tests:
            exec(test, namespace)
        assert task.reference.startswith(task.signature)


def test_a_constant_answer_passes_no_task():
    for task in starter_tasks("test", 100, seed=6):
        answers = {test.partition("==")[2] for test in task.tests}
        assert len(answers) > 1, task


def test_references_are_written_over_several_lines_without_padding():
    for task in starter_tasks("train", 100, seed=7):
        lines = task.reference.split("\n")
        assert len(lines) >= 5 and all(line.strip() and line == line.rstrip() for line in lines)


def test_level_0_keeps_the_code_and_level_1_one_token_of_each_group(tokenizer):
    rng = random.Random(0)
    for made in generate("train", 60, seed=8):
        tokens = tokenize_marked(made.marked, tokenizer)
        assert shorten(tokens, 0.0, rng) == tokens.ids
        assert tokenizer.decode(tokens.ids) == made.task.reference == plain(made.marked)
        assert len(shorten(tokens, 1.0, rng)) == len({group for group in tokens.groups if group})


def test_a_shorthand_never_loses_a_number_that_matters(tokenizer):
    composition = Composition("list", "above", "times", "sum")
    made = make_task(composition, random.Random(2))
    assert made is not None
    tokens = tokenize_marked(made.marked, tokenizer)
    for seed in range(50):
        left = tokenizer.decode(shorten(tokens, 1.0, random.Random(seed)))
        assert ">" in left and "*" in left and made.task.entry_point in left


def test_the_committed_weights_are_small_and_say_how_they_were_made():
    assert sum(_size(folder) for folder in (GENERATOR_DIR, STUDENT_DIR)) < 8 * 1000 * 1000
    assert _size(CODER_DIR) < 3 * 1000 * 1000
    assert "python -m trainer.starter.sequences_build" in (CODER_DIR / "README.md").read_text()
    for folder in (GENERATOR_DIR, STUDENT_DIR):
        assert "python -m trainer.starter.build" in (folder / "README.md").read_text()


def _size(folder: Path) -> int:
    """Bytes of a model's own files: the sequence coder lies in a folder beside the student's."""
    return sum(file.stat().st_size for file in folder.glob("*") if file.is_file())


def test_the_committed_weights_load_with_the_auto_classes(tokenizer):
    from transformers import AutoModelForCausalLM

    for folder in (GENERATOR_DIR, STUDENT_DIR):
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("folder", ["decoder-service/starter", "trainer/starter"])
def test_the_model_cards_name_files_that_are_there_and_are_what_the_recipe_writes(
    repo: Path, folder: str, tmp_path: Path
) -> None:
    card = (repo / folder / "README.md").read_text(encoding="utf-8")
    named = [word for word in re.findall(r"`([^`]*)`", card) if "/" in word]
    assert named and all((repo / word).is_file() for word in named)
    table = dict(re.findall(r"\| (\w+) \| ([\d.]+) \|", card))
    what = "generator" if folder.startswith("decoder") else "student"
    recipe = {key: value for key, value in table.items() if key != "seed"}
    write_card(what, recipe, {}, int(table["seed"]), tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card


@pytest.mark.parametrize("name", ["starter-text.yaml", "starter-program.yaml"])
def test_the_demos_configurations_have_the_seed_the_demo_has(name: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert str(load_yaml(Path(name))["seed"]) == parser.get_default("seeds")
