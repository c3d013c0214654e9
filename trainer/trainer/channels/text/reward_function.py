"""What GRPO calls for its rewards: messages in, one number or None per message out. Never raises.

None means "no answer", for all messages of a call: then `missing` says why, and the step is not taken
(callbacks.py).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shared.errors import NoAnswer, RequestRefused
from shared.wire import MAX_TEXT
from trainer.channels.text.controllers import Controller
from trainer.channels.text.exchange import Exchange, Outcomes, TaskRefused, patiently, unless_stopped
from trainer.channels.text.rewards import Judged, score, without_idle
from trainer.config_text import TextConfig
from trainer.measure.students import has_visible
from trainer.tasks.task import Task


class Episode(NamedTuple):
    """One message and what came of it. `outcome` is a verdict's, or truncated, invisible, refused.

    reference_tokens  tokens of the task's reference code
    anchor            whether the untrained student had a part in it (anchors.py)
    """

    task_id: str
    family: str
    message: str
    tokens: int
    reference_tokens: int
    program: str
    outcome: str
    reward: float
    anchor: bool = False

    @property
    def passed(self) -> bool:
        """Whether every test passed."""
        return self.outcome == "passed"


@dataclass
class Batch:
    """The episodes of one call, and the seconds each service took."""

    episodes: list[Episode]
    unique: int = 0
    decode_s: float = 0.0
    sandbox_s: float = 0.0


@dataclass
class CompressionReward:
    """The reward of the text channel.

    tasks       the training tasks; the data set's `task` column holds indices into it
    tokenizer   the student's
    end_ids     tokens that end a message
    controller  what steers the reward by the pass rate; None if nothing does
    stopping    set when the run is to stop: an outage is then not waited for
    taken       batches since the trainer last took them
    missing     why the last call has no rewards: an outage, a task the judge refuses, a token the services
                refuse; empty if it has
    anchors     which messages of the next call are anchors, by their place
    idle        [N] of the last call, whether it is an anchor that changed nothing
    """

    config: TextConfig
    tasks: Sequence[Task]
    tokenizer: Any
    end_ids: frozenset[int]
    controller: Controller | None
    stopping: threading.Event = field(default_factory=threading.Event)
    taken: list[Batch] = field(default_factory=list)
    missing: str = ""
    anchors: frozenset[int] = frozenset()
    idle: list[bool] = field(default_factory=list)
    __name__ = "compression"

    def __post_init__(self) -> None:
        self._exchange: Exchange | None = None
        self._reference = [self.count(task.reference) for task in self.tasks]

    def count(self, text: str) -> int:
        """Return the tokens of a text under the student's tokenizer, special tokens excluded."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    async def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        task: list[int],
        **_: Any,
    ) -> list[float | None]:
        """Return the rewards [N], or [N] None. The arguments are TRL's; `task` is the data set's column."""
        sent = [self._message(c, ids) for c, ids in zip(completions, completion_ids, strict=True)]
        asked = [place for place, message in enumerate(sent) if not message.refused]
        tasks = [self.tasks[i] for i in task]

        async def ask() -> Outcomes:
            return await self._ask([tasks[i] for i in asked], [sent[i].text for i in asked])

        self.missing = ""
        try:
            answer = await patiently(ask, self.config, self.stopping.is_set)
        except (NoAnswer, TaskRefused, RequestRefused) as error:
            self.missing = str(error)
            return [None] * len(sent)
        return [*self._rewards(sent, task, asked, answer)]

    def _rewards(
        self, sent: list[Sent], indices: list[int], asked: list[int], answer: Outcomes
    ) -> list[float]:
        """Put outcomes and rewards together, and keep the episodes."""
        programs, outcomes = [""] * len(sent), [message.refused for message in sent]
        for place, program, finding in zip(asked, answer.programs, answer.findings, strict=True):
            programs[place], outcomes[place] = program, finding.outcome
        reference = [self._reference[i] for i in indices]
        anchors = [place in self.anchors for place in range(len(sent))]
        # An anchor is scored in a group of its own: how short the others are is their own affair.
        groups = [
            -1 - place if anchor else i
            for place, (i, anchor) in enumerate(zip(indices, anchors, strict=True))
        ]
        passed = [outcome == "passed" for outcome in outcomes]
        level = self.controller.value if self.controller else 0.0
        scored = score(self.config, Judged(passed, [m.tokens for m in sent], reference, groups), level)
        moved, self.idle = without_idle(scored, passed, anchors, indices)
        rewards = [float(value) for value in moved]
        tasks = [self.tasks[i] for i in indices]
        episodes = [
            Episode(t.task_id, t.family, m.text, m.tokens, ref, program, outcome, reward, anchor)
            for t, m, ref, program, outcome, reward, anchor in zip(
                tasks, sent, reference, programs, outcomes, rewards, anchors, strict=True
            )
        ]
        self.taken.append(Batch(episodes, answer.unique, answer.decode_s, answer.sandbox_s))
        return rewards

    def _message(self, completion: Any, ids: list[int]) -> Sent:
        """Return what is sent of one completion, and its price.

        The price is the larger of two counts: the tokens the student chose (special ones vanish in the text,
        so counting the text alone would make them free), and the text's own tokens (so that no odd split is
        cheaper than what a reader would count).
        """
        text = completion if isinstance(completion, str) else completion[0]["content"]
        text = text.strip()
        ended = bool(ids) and ids[-1] in self.end_ids
        tokens = max(len(ids) - ended, self.count(text))
        if not ended or len(text) > MAX_TEXT:
            return Sent(text[:MAX_TEXT], tokens, "truncated")
        return Sent(text, tokens, "" if has_visible(text) else "invisible")

    async def _ask(self, tasks: list[Task], messages: list[str]) -> Outcomes:
        """Ask both services; give up at once when the run is to stop. Raises NoAnswer, TaskRefused."""
        if not messages:
            return Outcomes([], [], 0, 0.0, 0.0)
        if self._exchange is None:
            self._exchange = Exchange(self.config)
        exchange = self._exchange
        return await unless_stopped(
            exchange.outcomes(tasks, messages), lambda: exchange.retries, self.stopping.is_set
        )

    async def aclose(self) -> None:
        """Close the clients; on the loop that used them."""
        if self._exchange is not None:
            await self._exchange.aclose()

    def take(self) -> list[Batch]:
        """Return the batches since the last call."""
        batches, self.taken = self.taken, []
        return batches


class Sent(NamedTuple):
    """One message as it goes out. `refused` says why it fails unsent: truncated or invisible."""

    text: str
    tokens: int
    refused: str
