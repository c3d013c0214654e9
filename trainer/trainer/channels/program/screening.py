"""Which sequences there is something to learn from: those whose programs are not all worth the same.

Where all programs of a sequence earn one reward, right or wrong, their advantages are nothing, and a step
that samples them is spent for nothing. So a few are sampled for many sequences now and then, and the steps up
to the next time are given those whose rewards vary most. For a reward of 0 or 1 that is p (1 - p), which the
literature calls a sequence's learnability (Rutherford et al., "No Regrets", NeurIPS 2024, arXiv:2408.15099).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import pvariance
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from shared.clients import run as run_async
from shared.errors import NoAnswer, RequestRefused
from trainer.channels.callbacks import Halted, say
from trainer.channels.program.environment import judge
from trainer.channels.program.execution import Executor
from trainer.channels.program.policy import Policy, write_programs
from trainer.channels.program.prompts import policy_messages
from trainer.channels.program.search import connect
from trainer.channels.text.exchange import patiently
from trainer.config import ConfigError
from trainer.config_program import ProgramConfig
from trainer.runs import SCREENINGS, NothingToLearn, Run

if TYPE_CHECKING:
    from trainer.channels.program.reward_function import ProgramReward


class Screened(NamedTuple):
    """One look at the sequences.

    step      steps done before it
    screened  sequences looked at
    places    of those there is something to learn from
    seconds   it took
    """

    step: int
    screened: int
    places: list[int]
    seconds: float


class Screening:
    """The sequences of each step, chosen anew every screen_every steps.

    seconds  spent screening since the trainer last set it to 0
    """

    def __init__(self, config: ProgramConfig, policy: Policy, reward: ProgramReward, run: Run | None) -> None:
        self.config, self.policy, self.reward, self.run = config, policy, reward, run
        self.seconds = 0.0
        self._now: Screened | None = None

    def rows(self, step: int, rows: Sequence[dict[str, Any]], model: Any) -> list[dict[str, Any]]:
        """Return the rows of a step's sequences in place of the data set's: those left go round and round.

        step    steps done
        rows    [batch_size x samples] of this rank, as the data set has them
        model   the policy as it is now
        raises  Halted, on every rank, if the sandbox is away or refuses; NothingToLearn if too little is left
                to begin with
        """
        every = self.config.screen_every or step + 1
        begun = step // every * every
        if self._now is None or self._now.step != begun:
            self._now = self._shared(begun, model)
        ranks, groups = PartialState(), len(rows) // self.config.samples
        places = list(self._now.places)
        random.Random(f"{self.config.seed}/{begun}").shuffle(places)
        first = ((step - begun) * ranks.num_processes + ranks.process_index) * groups
        found = []
        for i, row in enumerate(rows):
            place = places[(first + i // self.config.samples) % len(places)]
            found.append({**row, "place": place, "prompt": policy_messages(self.reward.sequences[place])})
        return found

    def _shared(self, step: int, model: Any) -> Screened:
        """Return what the first rank finds, or found before a resume."""
        found: list[Any] = [None]
        if self.run is not None:
            try:
                last = self._last(self.run)
                found = [last if last and last.step == step else self._look(self.run, step, model, last)]
            except NothingToLearn as error:
                found = [error]
            except (NoAnswer, RequestRefused, ConfigError) as error:
                found = [Halted(f"no screening in front of step {step + 1}: {error}")]
        broadcast_object_list(found)
        if isinstance(found[0], Exception):
            raise found[0]
        return Screened(*found[0])

    def _last(self, run: Run) -> Screened | None:
        rows = list(run.rows(SCREENINGS))
        return Screened(**rows[-1]) if rows else None

    def _look(self, run: Run, step: int, model: Any, last: Screened | None) -> Screened:
        """Return the sequences to learn from, or those of the last look if these are too few."""
        config, started = self.config, time.monotonic()
        n = len(self.reward.sequences)
        wanted = min(config.screen_sequences or n, n)
        times = step // config.screen_every if config.screen_every else 0
        some = [(times * wanted + i) % n for i in range(wanted)]
        policy = self.policy._replace(model=model)
        say(f"screening at step {step}: {config.screen_samples} programs of each of {wanted} sequences")
        places = learnable(policy, self.reward.sequences, some, config, self.reward.stopping.is_set)
        spent = time.monotonic() - started
        self.seconds += spent
        say(f"screened at step {step}: {len(places)} of {wanted} sequences have programs of different worth")
        if len(places) < config.batch_size:
            if last is None:
                raise NothingToLearn(
                    f"screen_samples={config.screen_samples} leaves {len(places)} of {wanted} training "
                    "sequences, as programs of each other one are worth the same; a step takes batch_size="
                    f"{config.batch_size}: start another run, with more --train-sequences, other ones, or "
                    "--screen-samples 0: one that goes on has the settings it had"
                )
            places = last.places
        # No more than there are steps for: those first in which there is most to learn.
        taken = config.screen_every * config.batch_size * PartialState().num_processes
        places = places[: taken or None]
        found = Screened(step, wanted, places, spent)
        run.append(SCREENINGS, [found._asdict()])
        return found


def learnable(
    policy: Policy, sequences: Sequence[tuple[int, ...]], places: Sequence[int], config: ProgramConfig,
    stopping: Callable[[], bool],
) -> list[int]:  # fmt: skip
    """Return those places whose screen_samples programs are worth different rewards, most different first.

    raises  NoAnswer after max_outages tries
    """
    samples, some = config.screen_samples, [sequences[place] for place in places]
    # As many at a time as a step samples: what the memory holds.
    texts = write_programs(
        policy, some, samples=samples, temperature=config.temperature, max_tokens=config.max_tokens,
        seed=config.seed, batch=config.batch_size * config.samples,
    )  # fmt: skip
    executor = Executor(connect(config), config.limits)
    wanted = [sequence for sequence in some for _ in range(samples)]
    written = [text for own in texts for text in own]
    found = run_async(patiently(lambda: judge(wanted, written, executor, config.rules), config, stopping))
    spread = {
        place: pvariance([rollout.reward for rollout in found[i * samples : (i + 1) * samples]])
        for i, place in enumerate(places)
    }
    return sorted((place for place in places if spread[place] > 0), key=lambda place: -spread[place])
