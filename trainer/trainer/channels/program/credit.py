"""Credit by line: which line a token belongs to, and what each line's return is against its baseline.

The estimator is REINFORCE (Williams, 1992) with actions that are whole lines: line k of a program of K lines
has the return gamma^(K - k) x reward, as only the last line is rewarded. Its baseline is the mean return that
the *other* programs for the same sequence have at that line (leave-one-out; Kool et al., 2019). It does not
depend on the program it is held against, so the gradient stays unbiased; and since no return is below 0, a
wrong program's advantage never is above 0. Nothing is divided by a standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal

Baseline = Literal["leave_one_out", "none"]


def returns(reward: float, steps: int, gamma: float) -> list[float]:
    """Return the discounted return of each line.

    reward   of the finished program
    steps    its lines
    returns  [steps], the last one being the reward itself
    """
    return [reward * gamma ** (steps - 1 - k) for k in range(steps)]


def line_advantages(
    rewards: Sequence[float], steps: Sequence[int], *, gamma: float, baseline: Baseline = "leave_one_out"
) -> list[list[float]]:
    """Return the advantage of each line of each program for one sequence.

    rewards, steps  [G] of the programs sampled for it
    returns         [G][steps], one for a program of no line. A program that has no line k counts with its
                    last return there
    raises          ValueError for a leave-one-out baseline of one program
    """
    if baseline == "leave_one_out" and len(rewards) < 2:
        raise ValueError("a leave-one-out baseline needs two programs or more for a sequence")
    found = [returns(reward, max(n, 1), gamma) for reward, n in zip(rewards, steps, strict=True)]
    if baseline == "none":
        return found
    longest, others = max(map(len, found)), len(found) - 1
    at = [sum(own[min(k, len(own) - 1)] for own in found) for k in range(longest)]
    return [[value - (at[k] - value) / others for k, value in enumerate(own)] for own in found]


def lines_of_tokens(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[int]:
    """Return the line each token begins in, counted from 0: a token that ends a line belongs to that line.

    ids     [T] a program's tokens
    decode  text of a list of tokens, as the program is read
    """
    text = decode(list(ids))
    breaks = [decode([token]).count("\n") for token in ids]
    if sum(breaks) != text.count("\n"):
        # Tokens of this tokenizer mean something else beside others: look at each beginning of the text.
        ends = [decode(list(ids[:end])).count("\n") for end in range(len(ids))]
        return ends
    return list(accumulate(breaks[:-1], initial=0)) if breaks else []
