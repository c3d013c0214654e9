"""A real sandbox in the process jail, and a sequence coder of a few thousand weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.clients import SandboxClient
from trainer.channels.program.execution import Executor
from trainer.supervise import Service


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A sandbox for every test that leaves it alone."""
    service = Service("sandbox", tmp_path_factory.mktemp("sandbox") / "log", {"SANDBOX_JAIL": "process"})
    service.start()
    try:
        service.wait_ready()
        yield service
    finally:
        service.stop()


@pytest.fixture
def executor(sandbox: Service) -> Executor:
    """An executor that knows nothing yet."""
    return Executor(SandboxClient(sandbox.url, deadline_s=60))


@pytest.fixture(scope="session")
def tiny_coder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coder of two layers that has seen the simplest of sequences: enough to be right now and then."""
    import random

    import torch

    from trainer.channels.program.program import Line, Program
    from trainer.channels.program.warm_start import Example, Pairs, Stage, batched, supervise
    from trainer.starter.sequences_build import Recipe, new_model
    from trainer.starter.sequences_tokenizer import make_tokenizer
    from trainer.tasks.sequences import Pair

    class Constants(Pairs):
        """Pairs of one number, some times over: three numbers, four counts."""

        def __iter__(self) -> Iterator[list[Example]]:
            rng = random.Random(self.seed)
            while True:
                draws = [(rng.randint(3, 6), rng.choice((10, 20, 30))) for _ in range(256)]
                pairs = [Pair((v,) * n, Program((Line("repeat_num", (n, v)),))) for n, v in draws]
                yield from batched([self._example(pair, rng) for pair in pairs], self.stages[0].tokens)

    folder = tmp_path_factory.mktemp("coder")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = new_model(Recipe(width=64, inner=128, layers=2, heads=2), tokenizer)
    pairs = Constants(tokenizer, [Stage(1.0, 24, 512)], 100, seed=0)
    supervise(model, pairs, folder / "work", learning_rate=4e-3, seed=0, cpu=True, save_strategy="no")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
