"""A run folder as the trainer leaves one, with everything hostile in it that a message can hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.measure.evaluate import _families
from trainer.measure.language import describe
from trainer.measure.record import Record
from trainer.measure.tables import finite, row_of
from trainer.tasks.task import Task

HOSTILE = "<script>alert(1)</script>\u202e\u200b\x1b[31m \ud800 &amp; \"'"
TASKS = [
    Task(
        f"world/{i}",
        "Add 1.",
        f"def f{i}(x):",
        f"f{i}",
        f"def f{i}(x):\n    return x + {i}\n",
        (f"assert f{i}(1) == {1 + i}",),
        family="add+one",
    )
    for i in range(4)
]


def records(tokens: int, outcome: str) -> list[Record]:
    return [
        Record(t.task_id, t.family, HOSTILE, tokens, "", t.reference + HOSTILE, outcome, "value")
        for t in TASKS
    ]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder with every file in it."""
    run = tmp_path / "<run>"
    run.mkdir()
    (run / "config.yaml").write_text(
        "student_model: starter\nseed: 7\nlimits: {cpu_s: 5}\nname: '</style><b>'\n"
    )
    found = {"student": records(10, "passed"), "untrained student": records(30, "failed")}
    untrained = {t.task_id: 30 for t in TASKS}
    evaluation = {
        "command": "psuedoptimal evaluate '<run>'",
        "checkpoint": "best",
        "created": "2026-01-01T00:00:00+00:00",
        "tasks": {
            "source": "starter",
            "split": "test",
            "n": 4,
            "sha256": "ab",
            "items": {
                t.task_id: {"text": HOSTILE, "signature": t.signature, "reference": t.reference}
                for t in TASKS
            },
        },
        "decoder": {"name": HOSTILE, "engine": "echo", "libraries": {"torch": "2.13.0"}},
        "sandbox": {"jail": "process", "layers": ["rlimits"], "probes": [{"name": "network", "held": False}]},
        "rows": [
            row_of(n, k, found[n], untrained_tokens=untrained, notes=[HOSTILE]).as_json()
            for n, k in (("student", "student"), ("untrained student", "untrained"))
        ],
        "families": {name: _families(rows) for name, rows in found.items()},
        "language": {
            name: describe(TASKS, [r.message for r in rows], [r.message.split() for r in rows]).as_json()
            for name, rows in found.items()
        },
        "records": {name: [r._asdict() for r in rows] for name, rows in found.items()},
    }
    (run / "evaluation.json").write_text(json.dumps(finite(evaluation)))
    steps = [
        {
            "step": i,
            "reward/mean": i,
            "pass_rate": 0.5,
            "message/tokens": 30 - i,
            "verdict/passed": 0.5,
            "verdict/failed": 0.5,
            "time/step_s": 2.0,
            "time/decode_s": 0.5,
            "time/sandbox_s": 0.25,
        }
        for i in range(20)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps) + '{"step": 20, "rew')
    looks = [
        {"step": i, "split": "validation", "n": 4, "pass_rate": 0.5, "tokens": 30 - i} for i in (0, 10, 19)
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(s) + "\n" for s in looks))
    lines = [{"step": i, **r._asdict()} for i in (0, 10, 19) for r in records(30 - i, "passed")]
    (run / "heldout.jsonl").write_text("".join(json.dumps(s) + "\n" for s in lines))
    (run / "summary.json").write_text(
        json.dumps({"channel": "text", "seed": 7, "heldout": {"n": 4, "pass_rate": 0.5}})
    )
    return run


CHAT = "{% for m in messages %}{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of a few thousand parameters and a tokenizer made on the spot, in HF format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    recipe = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(["def f(x):\n    return x + 1\n"] * 4, recipe)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            eos_token_id=0,
            pad_token_id=1,
            bos_token_id=None,
        )
    )
    # Of a real instruct model's own defaults, those that would change what a student says.
    model.generation_config.repetition_penalty = 1.5
    model.generation_config.do_sample, model.generation_config.top_k = True, 20
    # Random weights hardly ever end; with these as ends too, some messages end early and some never.
    model.generation_config.eos_token_id = [0, *range(100, 130)]
    model.save_pretrained(folder)
    return folder
