"""The program that says what a sequence's runs are: right for every sequence, and seldom the shortest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from trainer.channels.program.notation import Part, Run, Turns, numbers, parts
from trainer.channels.program.program import SAME, Line, Program, Ref
from trainer.tasks.sequences_shorten import shorten, simplest


def transcribe(sequence: Sequence[int]) -> Program:
    """Return a program for a sequence of bytes: a line for each run, put together as the runs are.

    Runs that fall are written as rising ones, reversed. Equal lists are written once. No search.

    raises  ValueError if the sequence is empty
    """
    if not sequence:
        raise ValueError("an empty sequence has no runs to transcribe")
    lines: list[Line] = []
    whole = _add(list(parts(sequence)), lines)
    return shorten(Program((*lines, Line(SAME, (whole,)))))


def _add(side: list[Part], lines: list[Line]) -> Ref:
    """Write the lines of some parts. Returns the one that holds them all."""
    refs: list[Ref] = []
    for literal, group in groupby(side, key=lambda part: isinstance(part, int)):
        some = list(group)
        for part in [[n for p in some for n in numbers(p)]] if literal else some:
            refs.append(_line(part, lines))
    return refs[0] if len(refs) == 1 else _put(lines, Line("concatenate", tuple(refs)))


def _line(part: Part | list[int], lines: list[Line]) -> Ref:
    match part:
        case Turns(one, two):
            return _put(lines, Line("interleave", (_add(one, lines), _add(two, lines))))
        case Run() if part.step < 0:
            risen = _line(Run(part.last, -part.step, part.length), lines)
            return _put(lines, Line("reverse_list", (risen,)))
        case Run():
            line = simplest(numbers(part))
            assert line is not None, f"{part} is no run of the DSL"
            return _put(lines, line)
        case _:
            assert isinstance(part, list)
            return _put(lines, Line("set_list", (tuple(part),)))


def _put(lines: list[Line], line: Line) -> Ref:
    lines.append(line)
    return Ref(len(lines) - 1)
