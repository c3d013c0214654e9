"""What the text channel's own sampling and packing save here.

    python benchmarks/messages.py RUN

RUN is a starter's run. Both ways in turns, in one run, beside those of transformers and TRL: the messages of
one step sampled, and then their log-probabilities with the backward pass; by the student before its training,
and by the one it became.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from programs import batch, by_generate, by_rows, by_sample, compare
from trl.trainer.utils import add_fused_lm_head

from trainer.channels.grpo import PASSES
from trainer.channels.packing import distinct, distinct_log_probabilities
from trainer.channels.program.policy import Policy
from trainer.channels.text.prompts import encoder_messages
from trainer.channels.text.student import precision
from trainer.config_text import TextConfig
from trainer.measure.ask import config_of
from trainer.measure.students import load_student
from trainer.tasks.sources import load_tasks
from trainer.tasks.task import Task


def by_packing(model: Any, ids: Any, mask: Any, keep: int) -> Any:
    """Log-probabilities as the text channel computes them."""
    return distinct_log_probabilities(
        model, ids, mask, keep, dtype=model.dtype, entropy=False, passes=PASSES
    )[0]


def measure(name: str, policy: Policy, tasks: Sequence[Task], config: TextConfig, rounds: int) -> None:
    """Measure both parts for one student."""
    model, encode = policy.model, policy.tokenizer.apply_chat_template
    add_fused_lm_head(model, temperature=config.temperature)
    prompts = [
        encode(encoder_messages(task), add_generation_prompt=True)["input_ids"]
        for task in tasks
        for _ in range(config.num_generations)
    ]
    drawn = config.temperature, config.max_completion_length
    compare(
        f"{name}, sampled", ("generate", "sample"),
        (lambda: by_generate(policy, prompts, *drawn), lambda: by_sample(policy, prompts, *drawn)), rounds,
    )  # fmt: skip
    torch.manual_seed(0)
    ids, mask, keep = batch(policy, prompts, by_sample(policy, prompts, *drawn))

    def backward(way: Callable[..., Any]) -> None:
        way(model, ids, mask, keep).sum().backward()
        model.zero_grad()

    compare(
        f"{name}, backward pass, {len(distinct(ids, mask)[0])} distinct of {len(ids)}",
        ("every row", "packed"), (lambda: backward(by_rows), lambda: backward(by_packing)), rounds,
    )  # fmt: skip


def main() -> int:
    """Measure both parts for both students."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = config_of(args.run)
    chosen = precision(config)
    tasks = load_tasks(config, "train")[: config.batch_size // config.num_generations]
    for name, source in (
        ("untrained", config.student_source),
        ("trained", args.run / "checkpoints" / "best"),
    ):
        student = load_student(source, base=config.student_source, precision=chosen)
        measure(name, Policy(student.model, student.tokenizer, chosen), tasks, config, args.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
