"""Processes that sample a batch's prompts together, each on a core of its own. None of them learns or judges.

Drawing one token after another is a long row of small operations, which threads cannot share. The weights lie
in memory that all processes see, so that a step of the optimizer needs no telling.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import multiprocessing

from trainer.channels.sampling import sample


class Samplers:
    """Samples as `sample` does, this process its part and the others theirs.

    One seed of torch's global generator gives the same programs each time, but for another number of
    processes it gives others.
    """

    def __init__(self, model: Any, processes: int) -> None:
        """Start processes - 1 of them. The weights of `model`, on a CPU, move into shared memory."""
        model.share_memory()
        # Forked from one that has torch loaded and does nothing else: seconds and memory are paid once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["trainer.channels.sampling"])
        self._pipes: list[Connection] = []
        self.others = []
        for _ in range(processes - 1):
            ours, theirs = context.Pipe()
            other = context.Process(target=_serve, args=(theirs, model), daemon=True)
            other.start()
            theirs.close()
            self._pipes.append(ours)
            self.others.append(other)

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int,
        ends: Collection[int], pad: int,
    ) -> list[list[int]]:  # fmt: skip
        """Continue each prompt, as `sample` does.

        model   the one whose weights are shared
        raises  EOFError, BrokenPipeError if another process has ended
        """
        runs = [list(same) for _, same in groupby(map(list, prompts))]
        # In turns, as they may come by length.
        shares = [runs[i :: len(self._pipes) + 1] for i in range(len(self._pipes) + 1)]
        how = {"temperature": temperature, "max_tokens": max_tokens, "ends": list(ends), "pad": pad}
        asked = [pipe for pipe, share in zip(self._pipes, shares[1:], strict=True) if share]
        for pipe, share in zip(asked, shares[1:], strict=False):
            pipe.send((int(torch.randint(1 << 62, ())), _flat(share), how))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = sample(model, _flat(shares[0]), **how)
        finally:
            torch.set_num_threads(threads)
        parts = [iter(found), *(iter(pipe.recv()) for pipe in asked)]
        return [next(parts[i % len(shares)]) for i, run in enumerate(runs) for _ in run]

    def close(self) -> None:
        """End the other processes."""
        for pipe, other in zip(self._pipes, self.others, strict=True):
            pipe.close()
            other.join()


def _flat(runs: Sequence[list[list[int]]]) -> list[list[int]]:
    return [prompt for run in runs for prompt in run]


def _serve(pipe: Connection, model: Any) -> None:
    """Sample what is asked for, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    model.eval()
    while True:
        try:
            seed, prompts, how = pipe.recv()
        except EOFError:
            return
        torch.manual_seed(seed)
        pipe.send(sample(model, prompts, **how))
