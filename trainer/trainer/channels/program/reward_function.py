"""What the trainer calls for its rewards: programs in, one number or None per program out. Never raises.

None means "no answer", for all programs of a call: then `missing` says why, and the step is not taken
(channels/grpo.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import NoAnswer, RequestRefused
from trainer.channels.program.environment import Rollout, judge
from trainer.channels.program.execution import Executor
from trainer.channels.program.search import connect
from trainer.channels.text.exchange import patiently, unless_stopped
from trainer.config_program import ProgramConfig


@dataclass
class Batch:
    """The rollouts of one call, the place of each one's sequence, and the seconds the sandbox took.

    rollouts    [N]
    advantages  [N][steps] as the trainer credited the lines; filled by it
    requests    sent to the sandbox
    """

    places: list[int]
    rollouts: list[Rollout]
    sandbox_s: float = 0.0
    requests: int = 0
    advantages: list[list[float]] = field(default_factory=list)


@dataclass
class ProgramReward:
    """The reward of the program channel.

    sequences  the training sequences; the data set's `place` column holds indices into it
    stopping   set when the run is to stop: an outage is then not waited for
    taken      batches since the trainer last took them
    missing    why the last call has no rewards: an outage, a token the sandbox refuses; empty if it has
    """

    config: ProgramConfig
    sequences: Sequence[tuple[int, ...]]
    stopping: threading.Event = field(default_factory=threading.Event)
    taken: list[Batch] = field(default_factory=list)
    missing: str = ""
    __name__ = "program"

    def __post_init__(self) -> None:
        self._executor: Executor | None = None

    async def __call__(
        self, prompts: list[Any], completions: list[Any], place: list[int], **_: Any
    ) -> list[float | None]:
        """Return the rewards [N], or [N] None. The arguments are TRL's; `place` is the data set's column."""
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        if self._executor is None:
            self._executor = Executor(connect(self.config), self.config.limits)
        executor, client, started = self._executor, self._executor.client, time.monotonic()
        before, wanted = client.requests, [self.sequences[i] for i in place]

        async def ask() -> list[Rollout]:
            work = judge(wanted, texts, executor, self.config.rules)
            return await unless_stopped(work, lambda: client.retries, self.stopping.is_set)

        self.missing = ""
        try:
            rollouts = await patiently(ask, self.config, self.stopping.is_set)
        except (NoAnswer, RequestRefused) as error:
            self.missing = str(error)
            return [None] * len(texts)
        spent = time.monotonic() - started
        self.taken.append(Batch(list(place), rollouts, spent, client.requests - before))
        return [rollout.reward for rollout in rollouts]

    async def aclose(self) -> None:
        """Close the client; on the loop that used it."""
        if self._executor is not None:
            await self._executor.client.aclose()

    def take(self) -> list[Batch]:
        """Return the batches since the last call."""
        batches, self.taken = self.taken, []
        return batches
