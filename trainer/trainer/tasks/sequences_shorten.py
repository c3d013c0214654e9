"""Shorten a program of the DSL without changing its output: hill climbing on the code's length.

Gives the ground truth a fair length: a generator writes lines that it need not write. Uses no search over
new programs; the result is a shorter program, not the shortest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from trainer.channels.program.program import SAME, Argument, Line, Program, Ref, values
from trainer.channels.program.program_code import length_bits


def shorten(program: Program) -> Program:
    """Return an equal program that is no longer, in bits.

    Lists that are a constant or a range are written as such, equal lists once, parts in the order in which
    they are used; concatenations are joined, neighbours that continue one another become one, and what is
    not used goes. A part is written out where that is shorter than how it was made.
    """
    best = _tidy(_joined(program, values(program)))
    best = min(best, program, key=length_bits)
    bits, again = length_bits(best), True
    while again:
        again = False
        found = values(best)
        for candidate in _candidates(best, found):
            tidy = _tidy(candidate)
            if (less := length_bits(tidy)) < bits:
                best, bits, again = tidy, less, True
                break
    return best


def simplest(value: list[int]) -> Line | None:
    """Return a line that makes a list from two or three numbers, or None."""
    if not value or min(value) < 0 or max(value) > 255:
        return None
    steps = {b - a for a, b in pairwise(value)}
    if len(value) < 2 or len(steps) != 1:
        return None
    match steps.pop():
        case 0:
            return Line("repeat_num", (len(value), value[0]))
        case 1:
            return Line("range_func_up", (value[0], value[-1]))
        case step if step > 1:
            return Line("range_func_interval", (value[0], value[-1] + 1, step))
        case _:
            return None


def _candidates(program: Program, found: list[list[int]]) -> Iterator[Program]:
    lines = program.lines
    yield from _merged(program, found)
    for i, line in enumerate(lines):
        simple = simplest(found[i])
        if simple is not None and simple != line:
            yield Program((*lines[:i], simple, *lines[i + 1 :]))
        literal = Line("set_list", (tuple(found[i]),))
        if found[i] and line.operation not in ("set_list", "concatenate", "interleave"):
            yield Program((*lines[:i], literal, *lines[i + 1 :]))


def _joined(program: Program, found: list[list[int]]) -> Program:
    """Write constants and ranges as such, and every concatenation with all its parts' parts."""
    lines: list[Line] = []
    for line, value in zip(program.lines, found, strict=True):
        if line.operation == SAME:
            ref = line.arguments[0]
            line = lines[ref.line] if isinstance(ref, Ref) else Line("set_list", line.arguments)
        elif line.operation == "concatenate":
            parts: list[Argument] = []
            for part in line.arguments:
                inner = lines[part.line] if isinstance(part, Ref) else None
                parts += inner.arguments if inner and inner.operation == "concatenate" else [part]
            line = Line("concatenate", tuple(parts))
        lines.append(simplest(value) or line)
    return Program(tuple(lines))


def _merged(program: Program, found: list[list[int]]) -> Iterator[Program]:
    """Make one line of two neighbours in a concatenation: two literals, or what continues one another."""
    lines = list(program.lines)
    for i, line in enumerate(lines):
        if line.operation != "concatenate" or not all(isinstance(a, Ref) for a in line.arguments):
            continue
        parts = [a.line for a in line.arguments]
        for k, (one, two) in enumerate(pairwise(parts)):
            simple = simplest(found[one] + found[two])
            if not simple and lines[one].operation == lines[two].operation == "set_list":
                simple = Line("set_list", (tuple(found[one] + found[two]),))
            if simple:
                # The new line takes this one's place, and this one comes after it.
                rest = [*(Ref(p) for p in parts[:k]), Ref(i), *(Ref(p) for p in parts[k + 2 :])]
                moved = [_shifted(later, i) for later in lines[i + 1 :]]
                joined = Line("concatenate", tuple(rest)) if len(rest) > 1 else Line(SAME, (Ref(i),))
                yield Program((*lines[:i], simple, joined, *moved))


def _shifted(line: Line, start: int) -> Line:
    return Line(
        line.operation,
        tuple(Ref(a.line + 1) if isinstance(a, Ref) and a.line >= start else a for a in line.arguments),
    )


def _tidy(program: Program) -> Program:
    """Drop what is not used, write equal lines once, and order lines by their first use."""
    order: list[Line] = []
    places: dict[Line, int] = {}
    done: dict[int, int] = {}

    def place(i: int) -> int:
        if i in done:
            return done[i]
        line = program.lines[i]
        if line.operation == SAME and isinstance(line.arguments[0], Ref):
            done[i] = place(line.arguments[0].line)
            return done[i]
        new = Line(
            line.operation, tuple(Ref(place(a.line)) if isinstance(a, Ref) else a for a in line.arguments)
        )
        if new not in places:
            places[new] = len(order)
            order.append(new)
        done[i] = places[new]
        return done[i]

    last = place(len(program.lines) - 1)
    if last != len(order) - 1:
        order.append(Line(SAME, (Ref(last),)))
    return Program(tuple(order))
