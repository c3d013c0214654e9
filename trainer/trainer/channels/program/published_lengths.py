"""Two published measures of a program's length, for comparison with published figures. Neither is a code."""

from __future__ import annotations

import math

from trainer.channels.program.program import Program, Ref


def characters(source: str) -> int:
    """Return the first experiment's measure: characters of the text, line ends included."""
    return len(source)


def uniform_prior_bits(program: Program, functions: int = 24, symbols: int = 256) -> float:
    """Return the KoLMogorov Test's uniform-prior bits: no code can be read back from them.

    As published: predicates, list lengths and the output's reference are free, line i's references cost
    log2(i + 1), and a concatenation costs two of them however many it has. Unlike there, an `output` line
    that computes something is charged as that line, so that a literal cannot hide in it.
    source  KoLMogorov-Test, get_num_bits_per_program_uniform
    """
    opcode, value = math.log2(functions + 1), math.log2(symbols)
    total = 0.0
    for i, line in enumerate(program.lines):
        ref = math.log2(i + 1)
        literals = sum(len(a) for a in line.arguments if isinstance(a, tuple) and not isinstance(a, Ref))
        match line.operation:
            case "range_func_up":
                own = 2 * value
            case "range_func_interval":
                own = 2 * value + 3
            case "repeat_num":
                own = value + math.log2(20)
            case "set_list" | "":
                own = 0.0
            case "get_subsequence_between_indices" | "substitute":
                own = ref + 2 * value
            case "get_subsequence_with_jumps" | "repeat_list":
                own = ref + 3
            case "add_item_list" | "subtract_item_list" | "modulo_item_list" | "max_n" | "min_n":
                own = ref + value
            case "filter" | "reverse_list" | "scan_add":
                own = ref
            case _:
                own = 2 * ref
        total += opcode + own + value * literals
    return total
