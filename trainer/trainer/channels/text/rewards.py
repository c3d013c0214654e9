"""From verdicts and lengths to rewards. Pure functions over arrays [N]; no model, no service, no state.

ratio       pass_reward x reference / message tokens when all tests pass, else fail_reward: the first
            experiment's README. Unbounded: it pays a lucky short message more than it loses by failing often.
log_ratio   1 + log_scale x log_base(reference / message), cut on both sides: a bounded version of it.
budget      1 for passing within so many tokens, less in proportion for up to `budget_slack` more, then 0;
            failing earns fail_reward. Being shorter than the budget earns nothing; the budget itself may be
            annealed (controllers.py): it shrinks whenever the pass rate is what was asked for.
lagrangian  multiplier x passed - message / reference: shorter is better, passed or not, and a multiplier
            (controllers.py) grows until the pass rate is what was asked for.
relative    the same multiplier for passing (failing costs it), plus how many standard deviations a passing
            message is shorter than its group's passing messages. The pressure to be short does not fade as
            messages get alike, and a message that fails gains nothing by being short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.config_text import Reward

Array = NDArray[np.float64]


class Judged(NamedTuple):
    """What a reward may depend on.

    passed            [N] 1 if every test passed, else 0
    tokens            [N] message tokens
    reference_tokens  [N] tokens of the task's reference code, same tokenizer
    groups            [N] which group (task) a message belongs to; relative only; None is one group
    """

    passed: ArrayLike
    tokens: ArrayLike
    reference_tokens: ArrayLike
    groups: ArrayLike | None = None


def score(config: Reward, judged: Judged, level: float = 0.0) -> Array:
    """Return the rewards [N] of the configured kind.

    level   where the controller stands: lagrangian and relative: what passing is worth; budget: its tokens
    raises  ValueError if the arrays differ in length or a token count is below 0
    """
    passed, tokens, reference = (np.asarray(x, dtype=np.float64) for x in judged[:3])
    if not passed.shape == tokens.shape == reference.shape:
        raise ValueError(
            f"shapes differ: passed {passed.shape}, tokens {tokens.shape}, ref {reference.shape}"
        )
    if (tokens < 0).any() or (reference <= 0).any():
        raise ValueError("tokens must be >= 0 and reference_tokens > 0")
    length = np.maximum(tokens, config.length_floor)
    match config.reward:
        case "ratio":
            return ratio(passed, length, reference, config.pass_reward, config.fail_reward, config.ratio_cap)
        case "log_ratio":
            return log_ratio(passed, length, reference, config)
        case "budget":
            return np.where(passed > 0, _within(length, level, config.budget_slack), config.fail_reward)
        case "lagrangian":
            return level * passed - length / reference
        case "relative":
            return np.where(passed > 0, level + _shortness(passed, length, judged.groups), -level)


def ratio(
    passed: Array, length: Array, reference: Array, pass_reward: float, fail_reward: float, cap: float | None
) -> Array:
    """Return pass_reward x reference / length where passed, else fail_reward; the ratio is cut at `cap`."""
    gain = reference / length
    return np.where(passed > 0, pass_reward * (gain if cap is None else np.minimum(gain, cap)), fail_reward)


def log_ratio(passed: Array, length: Array, reference: Array, config: Reward) -> Array:
    """Return 1 + log_scale x log_base(reference / length), cut to +-log_cap; else fail_reward."""
    gain = np.log(reference / length) / np.log(config.log_base)
    return np.where(
        passed > 0, 1 + config.log_scale * np.clip(gain, -config.log_cap, config.log_cap), config.fail_reward
    )


def _within(length: Array, budget: float, slack: float) -> Array:
    """Return [N] 1 up to the budget, 0 from `slack` tokens above it on, in proportion between."""
    over = np.maximum(length - budget, 0)
    return np.asarray(over == 0, dtype=np.float64) if slack == 0 else 1 - np.minimum(over / slack, 1)


def _shortness(passed: Array, length: Array, groups: ArrayLike | None) -> Array:
    """Return [N] (mean - length) / std over the passing messages of each group; 0 for the others.

    The std is at least one token, so that a difference of one token never counts for more than one.
    """
    shortness = np.zeros_like(length)
    of = np.zeros(len(length), dtype=int) if groups is None else np.asarray(groups)
    for group in np.unique(of):
        members = (of == group) & (passed > 0)
        if members.any():
            found = length[members]
            shortness[members] = (found.mean() - found) / max(1.0, found.std())
    return shortness


def without_idle(
    rewards: Array, passed: Sequence[bool], anchors: Sequence[bool], groups: Sequence[int]
) -> tuple[Array, list[bool]]:
    """Return the rewards [N], each anchor that is not needed moved to its group's mean, and which those are.

    rewards  [N], an anchor's as if it were alone in its group
    passed   [N] whether every test passed
    anchors  [N] whether it is one
    groups   [N] which group it belongs to
    """
    rewards, of = rewards.copy(), np.asarray(groups)
    own, idle = ~np.asarray(anchors), [False] * len(rewards)
    for place in np.flatnonzero(~own):
        others = own & (of == of[place])
        idle[place] = bool(np.asarray(passed)[others].any() or not passed[place])
        if idle[place] and others.any():
            rewards[place] = rewards[others].mean()
    return rewards, idle
