"""Real services as processes, and a student of a few thousand weights, for the trainer's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.supervise import Service
from trainer.tasks.starter import starter_tasks


class Rooms:
    """An echo decoder and a sandbox in the process jail, which a test may kill and start again."""

    def __init__(self, folder: Path, **decoder: str) -> None:
        self.decoder = Service("decoder", folder / "decoder.log", decoder or {"DECODER_ENGINE": "echo"})
        self.sandbox = Service("sandbox", folder / "sandbox.log", {"SANDBOX_JAIL": "process"})

    def start(self) -> None:
        for service in (self.decoder, self.sandbox):
            service.start()
        for service in (self.decoder, self.sandbox):
            service.wait_ready()

    def stop(self) -> None:
        for service in (self.decoder, self.sandbox):
            service.stop()

    @property
    def flags(self) -> list[str]:
        return ["--decoder-url", self.decoder.url, "--sandbox-url", self.sandbox.url]


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    """Both services for every test that leaves them alone."""
    found = Rooms(tmp_path_factory.mktemp("rooms"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def own_rooms(tmp_path: Path) -> Iterator[Rooms]:
    """Both services for one test that does not leave them alone."""
    found = Rooms(tmp_path / "rooms")
    found.start()
    yield found
    found.stop()


@pytest.fixture
def starter_rooms(tmp_path: Path) -> Iterator[Rooms]:
    """Both services, the decoder with the starter's generator."""
    found = Rooms(tmp_path / "rooms", DECODER_ENGINE="hf", OMP_NUM_THREADS="1")
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with a chat template and a tokenizer of its own, as save_pretrained writes it."""
    return build_student(tmp_path_factory.mktemp("student"), seed=0)


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """Makes such a model: `build(folder, seed=1)`."""
    return build_student


def build_student(folder: Path, *, seed: int, width: int = 32) -> Path:
    """Write a model of one layer that has learned nothing but to end."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from trainer.starter.tokenizer import train_tokenizer

    tasks = starter_tasks("train", 100)
    tokenizer = train_tokenizer([task.text + task.signature + task.reference for task in tasks], 400)
    torch.manual_seed(seed)
    shape = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(shape)
    _learn_to_end(model, tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _learn_to_end(model: Any, end: int) -> None:
    """Teach it that a message may end after any token: one that never ends is never sent."""
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(40):
        ids = torch.randint(4, model.config.vocab_size, (16, 12))
        ids[torch.rand(ids.shape) < 0.25] = end
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
