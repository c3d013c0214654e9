"""From sequences to programs: the policy writes one or several, the sandbox judges all, the best is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared.clients import SandboxClient, run
from trainer.bearer import read_token
from trainer.channels.program.environment import Rollout, Rules, judge
from trainer.channels.program.execution import Executor
from trainer.channels.program.policy import Policy, write_programs
from trainer.config import ConfigError
from trainer.config_program import Service

SAMPLING_TEMPERATURE = 1.0


class Found(NamedTuple):
    """What a search came to: the rollout kept for each sequence [B], and every one tried [B][N]."""

    best: list[Rollout]
    tried: list[list[Rollout]]


def connect(config: Service) -> SandboxClient:
    """Return a client of the run's sandbox. Raises ConfigError without a URL or a readable token."""
    if not config.sandbox_url:
        raise ConfigError("sandbox_url is needed here; start one with `psuedoptimal serve sandbox`")
    return SandboxClient(
        config.sandbox_url, token=read_token(config.sandbox_token_file), deadline_s=config.deadline_s
    )


def search(
    policy: Policy, sequences: Sequence[Sequence[int]], executor: Executor, rules: Rules, *,
    samples: int = 1, temperature: float = SAMPLING_TEMPERATURE, max_tokens: int = 512, seed: int = 0,
) -> Found:  # fmt: skip
    """Find a program for each sequence.

    samples  1 is the greedy program; above, the greedy one and samples - 1 at the temperature
    returns  of each sequence's programs the shortest right one, else the one that begins best
    raises   NoAnswer, RequestRefused: without every verdict there is no result
    """
    texts = write_programs(policy, sequences, max_tokens=max_tokens)
    if samples > 1:
        more = write_programs(
            policy, sequences, samples=samples - 1, temperature=temperature, max_tokens=max_tokens, seed=seed
        )
        texts = [one + others for one, others in zip(texts, more, strict=True)]
    return judged(sequences, texts, executor, rules)


def judged(
    sequences: Sequence[Sequence[int]], texts: Sequence[Sequence[str]], executor: Executor, rules: Rules
) -> Found:
    """Judge programs [B][N], all of them at once, and keep the best of each."""
    flat = [(sequence, text) for sequence, some in zip(sequences, texts, strict=True) for text in some]
    rollouts = iter(run(judge([s for s, _ in flat], [t for _, t in flat], executor, rules)))
    tried = [[next(rollouts) for _ in some] for some in texts]
    best = [min(some, key=lambda r: (not r.solved, r.bits if r.solved else -r.beginning)) for some in tried]
    return Found(best, tried)
