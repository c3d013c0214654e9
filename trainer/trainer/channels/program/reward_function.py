"""What the trainer calls for its rewards: programs in, one number or None per program out. Never raises.

None means "no answer", and only an outage gives it; such a step moves no weight (text/callbacks.py does the
same). What is fatal is kept in `fault` for the trainer to stop by.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import NoAnswer, RequestRefused
from trainer.channels.program.environment import Rollout, judge
from trainer.channels.program.execution import Executor
from trainer.channels.program.search import connect
from trainer.config_program import ProgramConfig

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """The rollouts of one call, the place of each one's sequence, and the seconds the sandbox took.

    rollouts    [N], or empty in an outage
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
    taken      batches since the trainer last took them
    fault      what makes going on pointless, e.g. a token the sandbox refuses
    """

    config: ProgramConfig
    sequences: Sequence[tuple[int, ...]]
    taken: list[Batch] = field(default_factory=list)
    fault: Exception | None = None
    __name__ = "program"

    def __post_init__(self) -> None:
        self._executor: Executor | None = None

    async def __call__(
        self, prompts: list[Any], completions: list[Any], place: list[int], **_: Any
    ) -> list[float | None]:
        """Return the rewards [N]; the arguments are TRL's, `place` is the data set's column."""
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        if self._executor is None:
            self._executor = Executor(connect(self.config), self.config.limits)
        client, started = self._executor.client, time.monotonic()
        before = client.requests
        try:
            wanted = [self.sequences[i] for i in place]
            rollouts = await judge(wanted, texts, self._executor, self.config.rules)
        except NoAnswer as error:
            logger.warning("no answer for %d programs: %s", len(texts), error)
            rollouts = []
        except RequestRefused as error:
            self.fault, rollouts = error, []
        spent = time.monotonic() - started
        self.taken.append(Batch(list(place), rollouts, spent, client.requests - before))
        return [rollout.reward for rollout in rollouts] or [None] * len(texts)

    async def aclose(self) -> None:
        """Close the client; on the loop that used it."""
        if self._executor is not None:
            await self._executor.client.aclose()

    def take(self) -> list[Batch]:
        """Return the batches since the last call."""
        batches, self.taken = self.taken, []
        return batches
