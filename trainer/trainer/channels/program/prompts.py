"""What a policy is told: the whole language, the sequence, and the sequence's runs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache

from shared import sequence_dsl
from trainer.channels.program.notation import write
from trainer.channels.program.program import OPERATIONS, PREDICATES

SYSTEM = """You write the shortest program that makes a sequence of numbers. The program is executed after \
every line, and is finished as soon as the variable `output` equals the sequence.

One assignment on each line, the last one to `output`. No nesting, no loops, no functions of your own, no \
comments, no code fences. Name the lists sequence_1, sequence_2 and so on. Arguments are whole numbers, \
literal lists, or lists named before. These operations are defined; there is nothing to import:

{operations}

Predicates: {predicates}.

Under `Runs` the sequence is written again in short: `7 * 18` is 18 times 7, `10 .. 48` counts up to 48, \
`10 ..3 40` goes by 3, and `{{ A / B }}` stands for the numbers of A and of B in turn, then what the \
longer of them has left.

Example. Sequence: [7, 7, 7, 7, 7, 10, 11, 12, 13, 14]
sequence_1 = repeat_num(5, 7)
sequence_2 = range_func_up(10, 14)
output = concatenate(sequence_1, sequence_2)"""


def operations() -> str:
    """Return every operation with its arguments and what it returns, one a line."""
    lines = []
    for name in OPERATIONS:
        function = getattr(sequence_dsl, name)
        arguments = ", ".join(
            str(parameter).split(":")[0] + (f"={parameter.default}" if parameter.default == 0 else "")
            for parameter in inspect.signature(function).parameters.values()
        )
        lines.append(f"{name}({arguments}): {(function.__doc__ or '').removeprefix('Return ').rstrip('.')}")
    return "\n".join(lines)


@cache
def instructions() -> str:
    """Return what every policy is told of the language."""
    return SYSTEM.format(operations=operations(), predicates=", ".join(PREDICATES))


def policy_messages(sequence: Sequence[int]) -> list[dict[str, str]]:
    """Return the conversation that a policy continues with a program."""
    user = f"Sequence: {list(sequence)}\nRuns: {write(sequence)}"
    return [{"role": "system", "content": instructions()}, {"role": "user", "content": user}]
