"""The full-size run's path, on random models in the format of the real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.config_text import TextConfig
from trainer.measure.students import load_student
from trainer.runs import Run
from trainer.tasks.starter import starter_tasks

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPARE_ROWS = 24


def qwen(folder: Path, *, seed: int) -> Path:
    """Write a random model as Qwen2.5 is published: byte-level BPE, ChatML, more rows than tokens."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    bpe = ByteLevelBPETokenizer()
    texts = [task.text + task.signature + task.reference for task in starter_tasks("train", 100)]
    bpe.train_from_iterator(texts, vocab_size=400, show_progress=False)
    folder.mkdir()
    bpe.save_model(str(folder))
    tokenizer = Qwen2Tokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"], chat_template=CHATML,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer) + SPARE_ROWS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.slow
def test_the_full_size_path_saves_an_adapter_that_evaluate_loads(tmp_path: Path, capsys: Any) -> None:
    """The full-size run's settings, two folders for the two names; both verbs start their own services."""
    student, generator = qwen(tmp_path / "student", seed=0), qwen(tmp_path / "generator", seed=1)
    folder = tmp_path / "runs" / "full"
    code = main([
        "train", "text", "--config", "psuedoptimal.yaml", "--dataset", "starter", "--no-clearml",
        "--student-model", str(student), "--generator-model", str(generator), "--device", "cpu",
        "--max-steps", "2", "--batch-size", "2", "--max-completion-length", "8", "--max-program-tokens", "8",
        "--validation-tasks", "2", "--heldout-tasks", "2", "--eval-steps", "1", "--save-steps", "1",
        "--runs", str(folder.parent), "--name", "full",
    ])  # fmt: skip
    assert code == 0
    assert Run(folder).read_json("services.json")["decoder"]["name"] == generator.name
    assert (folder / "checkpoints/best/adapter_model.safetensors").is_file()
    loaded = load_student(folder / "checkpoints/best", base=student)
    assert type(loaded.model).__name__ == "PeftModelForCausalLM"
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 0
    assert "untrained student" in capsys.readouterr().out
    evaluation = Run(folder).read_json("evaluation.json")
    assert evaluation["decoder"]["name"] == generator.name
    assert {row["name"]: row["n"] for row in evaluation["rows"]}["student"] == 2


def test_a_students_tokenizer_is_the_one_its_files_name(tmp_path: Path, build: Callable[..., Path]) -> None:
    """transformers would rebuild it as Qwen2's, whose default tokens lie beyond this model's rows."""
    from trainer.channels.text.student import load_policy, precision
    from trainer.measure.students import encode_tasks

    folder = build(tmp_path / "student", seed=0)
    place = folder / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(place.read_text()).items() if k not in ("pad_token", "unk_token")}
    place.write_text(json.dumps(kept))
    config = TextConfig(student_model=str(folder), device="cpu")
    policy, student = load_policy(config, precision(config)), load_student(folder)
    tasks = starter_tasks("train", 3)
    for tokenizer in (policy.tokenizer, student.tokenizer):
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        assert len(tokenizer) <= policy.model.config.vocab_size
        assert "def f(n):" in tokenizer.decode(tokenizer.encode("def f(n):"))
    assert len(encode_tasks(student, tasks, max_new_tokens=4)) == 3


@pytest.mark.slow
def test_accelerate_launches_a_run_that_writes_tensorboard(
    tmp_path: Path, student_folder: Path, rooms: Any
) -> None:
    done = subprocess.run([
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "-m", "trainer.cli", "train", "text", "--dataset", "starter", "--generator-model", "echo",
        "--student-model", str(student_folder), "--device", "cpu", "--max-steps", "2", "--batch-size", "2",
        "--max-completion-length", "8", "--validation-tasks", "2", "--heldout-tasks", "2",
        "--eval-steps", "1", "--report-to", "tensorboard", "--runs", str(tmp_path), "--name", "launched",
        *rooms.flags,
    ], capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(Run(tmp_path / "launched").rows("metrics.jsonl"))) == 2
    assert list((tmp_path / "launched/tensorboard").rglob("events.out.tfevents.*"))
