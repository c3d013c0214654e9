"""The game: given a sequence, an action is a line of a program, and it is won when `output` is the sequence.

State: the program so far. Reward: `reward_constant - length_penalty x length`, and `reward_per_byte` for each
number of the sequence, for the first program that makes it, never below 0; else 0. Over: when it is won, or
after max_steps lines, the last one executed like any other. Because nothing is observed but the program so
far, whole programs may be sampled first and judged afterwards: `judge` executes every prefix that could win,
of all of them, in one request, and cuts each program where it won. That is the same game as line by line, by
one request instead of hundreds.
"""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from shared.clients import SandboxClient, run
from trainer.channels.program.execution import Executor, Output
from trainer.channels.program.program_code import length_bits
from trainer.channels.program.published_lengths import characters

MAX_STEPS = 100
FENCE = "```"
NOTHING = Output("no_output", None)


class Rules(NamedTuple):
    """What a program is worth.

    reward_constant  of one that makes the sequence, before its length
    length_penalty   times the length
    measure          bits of the prefix code, or the first experiment's characters
    partial_credit   of one that does not: times the share of the sequence it begins with; 0 is off
    max_steps        lines a program may have
    reward_per_byte  of one that makes the sequence, for each number of it: with 8 x length_penalty (and bits)
                     a reward is what the program saves, in place of one for right programs of any sequence
    """

    reward_constant: float = 100.0
    length_penalty: float = 0.1
    measure: Literal["bits", "characters"] = "bits"
    partial_credit: float = 0.0
    max_steps: int = MAX_STEPS
    reward_per_byte: float = 0.0

    def reward(self, solved: bool, length: int, beginning: float, size: int = 0) -> float:
        """Return the reward.

        beginning  the share of the sequence that the output begins with, 0 to 1
        size       numbers of the sequence
        """
        if not solved:
            return self.partial_credit * beginning
        # A right program is never worth less than a wrong one, however long it is.
        worth = self.reward_constant + self.reward_per_byte * size
        return max(worth - self.length_penalty * length, self.partial_credit, 0.0)


USUAL = Rules()


class Rollout(NamedTuple):
    """One program and what came of it.

    program    the lines that were played: up to the one that won
    steps      how many
    outcome    solved, wrong, no_list, no_output, or the sandbox's word: raised, timeout, memory, ..
    bits       the length of its code
    beginning  the share of the sequence that its last output begins with
    """

    program: str
    steps: int
    outcome: str
    bits: int
    beginning: float
    reward: float

    @property
    def solved(self) -> bool:
        """Whether the program makes the sequence."""
        return self.outcome == "solved"


def lines_of(text: str) -> list[str]:
    """Return what a policy wrote as lines: up to the end of a fenced block, if it opened one."""
    lines = text.rstrip().split("\n") if text.strip() else []
    fences = [i for i, line in enumerate(lines) if line.startswith(FENCE)]
    return lines[: fences[1]] if len(fences) > 1 else lines


def joined(lines: Sequence[str]) -> str:
    """Return lines as a program: fences and empty lines are actions that add nothing to it."""
    return "".join(f"{line}\n" for line in lines if line.strip() and not line.startswith(FENCE))


def prefixes(text: str, max_steps: int = MAX_STEPS) -> list[tuple[int, str]]:
    """Return the prefixes that could have an output: (lines, text), shortest first.

    Those that end inside a statement, or in which `output` is not named, cannot win; those that end in an
    empty line or a comment win no earlier than the one before.
    """
    lines, found = lines_of(text)[:max_steps], []
    first = next((i for i, line in enumerate(lines) if "output" in line or "exec" in line), len(lines))
    for end in range(first + 1, len(lines) + 1):
        last = lines[end - 1].strip()
        if last and not last.startswith(("#", FENCE)) and _parses(prefix := joined(lines[:end])):
            found.append((end, prefix))
    return found


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


async def judge(
    sequences: Sequence[Sequence[int]], texts: Sequence[str], executor: Executor, rules: Rules
) -> list[Rollout]:
    """Play whole programs.

    sequences  [N] what each program is to make
    texts      [N] the programs
    returns    rollouts [N]; each is cut at its first success
    raises     NoAnswer, RequestRefused: without every output there is no rollout
    """
    games = [(tuple(sequence), text) for sequence, text in zip(sequences, texts, strict=True)]
    # A settled policy writes the same program again and again.
    played = {game: prefixes(game[1], rules.max_steps) for game in dict.fromkeys(games)}
    outputs = iter(await executor.run([prefix for some in played.values() for _, prefix in some]))
    found = {
        (sequence, text): _rollout(
            sequence, text, [(end, prefix, next(outputs)) for end, prefix in some], rules
        )
        for (sequence, text), some in played.items()
    }
    return [found[game] for game in games]


def _rollout(
    sequence: tuple[int, ...], text: str, tried: list[tuple[int, str, Output]], rules: Rules
) -> Rollout:
    won = next((one for one in tried if one[2].value == sequence), None)
    if won is not None:
        return rollout_of(sequence, won[1], won[0], won[2], rules)
    lines = lines_of(text)[: rules.max_steps]
    return rollout_of(sequence, joined(lines), len(lines), tried[-1][2] if tried else NOTHING, rules)


def rollout_of(sequence: tuple[int, ...], program: str, steps: int, output: Output, rules: Rules) -> Rollout:
    """Return the rollout of a program whose output is known."""
    solved = output.value == sequence
    bits = length_bits(program)
    length = bits if rules.measure == "bits" else characters(program)
    beginning = beginning_of(sequence, output.value)
    outcome = "solved" if solved else output.outcome
    if output.outcome == "passed" and not solved:
        outcome = "no_list" if output.value is None else "wrong"
    reward = rules.reward(solved, length, beginning, len(sequence))
    return Rollout(program, steps, outcome, bits, beginning, reward)


def beginning_of(sequence: Sequence[int], output: Sequence[int] | None) -> float:
    """Return the share of a sequence that an output begins with."""
    right = 0
    for one, two in zip(sequence, output or (), strict=False):
        if one != two:
            break
        right += 1
    return right / len(sequence)


class SequenceEnv:
    """The game line by line, in the manner of Gymnasium's Env: for people, agents and other trainers.

    >>> env = SequenceEnv([[7, 7, 7]], SandboxClient("http://127.0.0.1:8002"))
    >>> observation, info = env.reset(seed=1)
    >>> observation, reward, terminated, truncated, info = env.step("output = repeat_num(3, 7)")

    An observation is {"sequence": tuple, "program": str}. The executor is shared by those that are given it.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], sandbox: SandboxClient | Executor, rules: Rules = USUAL
    ) -> None:
        self.sequences, self.rules = [tuple(sequence) for sequence in sequences], rules
        self.executor = sandbox if isinstance(sandbox, Executor) else Executor(sandbox)
        self._rng = random.Random()
        self._sequence: tuple[int, ...] | None = None
        self._lines: list[str] = []
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin anew with a sequence drawn by the seed, or with options["sequence"]."""
        if seed is not None:
            self._rng = random.Random(seed)
        chosen = (options or {}).get("sequence")
        self._sequence = tuple(chosen) if chosen is not None else self._rng.choice(self.sequences)
        self._lines, self._over = [], False
        return self._observation(), {"steps": 0}

    def step(self, line: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Add one line and execute the program.

        line     without its line end
        returns  observation, reward, terminated (it was won), truncated (max_steps), info of the rollout
        raises   RuntimeError before `reset` or after the end; ValueError for several lines; NoAnswer
        """
        if self._over or self._sequence is None:
            raise RuntimeError("the episode is over; call reset()")
        if "\n" in line.rstrip("\n"):
            raise ValueError(f"line={line[:60]!r}: one line at a time")
        self._lines.append(line.rstrip("\n"))
        program, steps = joined(self._lines), len(self._lines)
        # Only the whole program is new: its prefixes have been tried.
        asked = [program] if _parses(program) else []
        output = (run(self.executor.run(asked)) or [NOTHING])[0]
        rollout = rollout_of(self._sequence, program, steps, output, self.rules)
        truncated = not rollout.solved and steps >= self.rules.max_steps
        self._over = rollout.solved or truncated
        reward = rollout.reward if self._over else 0.0
        info = {"steps": steps, "outcome": rollout.outcome, "bits": rollout.bits}
        return self._observation(), reward, rollout.solved, truncated, info

    def _observation(self) -> dict[str, Any]:
        return {"sequence": self._sequence, "program": joined(self._lines)}
