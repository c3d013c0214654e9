"""Tiny random students: what matters is how they are asked and counted, not what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.measure.record import Message
from trainer.measure.students import Student, encode_tasks, has_visible, load_student
from trainer.tasks.starter import starter_tasks

TASKS = starter_tasks("test", 12, 0)


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> Student:
    return load_student(tiny_model)


def test_nothing_here_imports_torch_until_a_student_is_needed() -> None:
    modules = (
        "students senders evaluate report baselines language tables results samples progress plot figures"
    )
    names = ", ".join(f"trainer.measure.{name}" for name in modules.split())
    code = f"import sys, {names}; sys.exit(any(m in sys.modules for m in ('torch', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_message_does_not_depend_on_its_neighbours(student: Student) -> None:
    together = encode_tasks(student, TASKS, max_new_tokens=24, batch_size=12)
    alone = encode_tasks(student, TASKS, max_new_tokens=24, batch_size=1)
    assert together == alone
    assert len({m.text for m in together}) > 1


def test_the_models_own_sampling_defaults_are_not_used(student: Student) -> None:
    import torch

    message = encode_tasks(student, TASKS[:1], max_new_tokens=8)[0]
    from trainer.channels.text.prompts import encoder_messages

    prompt = student.tokenizer.apply_chat_template(
        encoder_messages(TASKS[0]), tokenize=False, add_generation_prompt=True
    )
    ids = student.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    written: list[int] = []
    ends = student.model.generation_config.eos_token_id
    with torch.inference_mode():
        while len(written) < 8 and not (written and written[-1] in ends):
            logits = student.model(torch.cat([ids, torch.tensor([written], dtype=torch.long)], dim=1)).logits
            written.append(int(logits[0, -1].argmax()))
    kept = [token for token in written if token not in ends]
    assert message.text == student.tokenizer.decode(kept, skip_special_tokens=True).strip()


def test_a_message_without_an_end_is_truncated_and_one_with_an_end_is_not(student: Student) -> None:
    short = encode_tasks(student, TASKS, max_new_tokens=2)
    assert {m.refused for m in short} & {"truncated"}
    longer = encode_tasks(student, TASKS, max_new_tokens=64)
    assert any(m.refused != "truncated" for m in longer)


def test_the_price_is_the_larger_of_both_counts(student: Student) -> None:
    from trainer.measure.students import _message

    letters = student.tokenizer.encode("r e t u r n", add_special_tokens=False)
    word = student.tokenizer.convert_tokens_to_ids(list("return"))
    ends = [0]
    assert _message(student, [*letters, 0], ends).tokens == len(letters)
    spelled = _message(student, [*word, 0], ends)
    assert (spelled.text, spelled.tokens) == ("return", 6) and student.count("return") < 6
    pads = student.tokenizer.pad_token_id
    assert _message(student, [pads, *letters, 0], ends).tokens == len(letters) + 1  # invisible, not free
    assert _message(student, [0, 1, 1], ends) == Message("", 0, "invisible")
    assert _message(student, [220, 0], ends).refused == "invisible"  # a single blank


def test_sampling_is_seeded_and_leaves_torchs_random_state_alone(student: Student) -> None:
    import torch

    before = torch.get_rng_state()
    first = encode_tasks(student, TASKS, max_new_tokens=12, temperature=1.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert first == encode_tasks(student, TASKS, max_new_tokens=12, temperature=1.0, seed=1)
    assert first != encode_tasks(student, TASKS, max_new_tokens=12, temperature=1.0, seed=2)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*")  # peft 0.21 calls the old name
def test_an_adapter_is_loaded_on_its_base(tiny_model: Path, student: Student, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        load_student(tiny_model).model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    adapted.save_pretrained(tmp_path)
    loaded = load_student(tmp_path, base=tiny_model)
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        assert torch.allclose(loaded.model(ids).logits, adapted.eval()(ids).logits, atol=1e-5)
        assert not torch.allclose(loaded.model(ids).logits, student.model(ids).logits, atol=1e-2)
    assert len(encode_tasks(loaded, TASKS[:2], max_new_tokens=4)) == 2


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither"):
        load_student(tmp_path)


def test_cutting_leaves_that_many_tokens(student: Student) -> None:
    assert student.count(student.cut("def f(x): return x", 4)) <= 4
    assert student.cut("def f(x)", 1000) == "def f(x)"


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\u200d", "\u2800", "\u0301", "\x00", "\u3164"])
def test_what_shows_nothing_is_invisible(text: str) -> None:
    assert not has_visible(text)


@pytest.mark.parametrize("text", ["x", ".", "→", "数", "\u200b1"])
def test_what_shows_something_is_visible(text: str) -> None:
    assert has_visible(text)
