"""A program of the sequence DSL as a value: read from text, written as text, computed line by line.

Nothing here executes text. `values` applies the DSL's own functions to a program that was read by `parse`,
within a budget: for programs of our own making. What a model writes is executed by the sandbox only.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

from shared import sequence_dsl as dsl

PREDICATES = ("is_even", "is_odd", "is_not_zero")
# i a whole number, l a list, p a predicate, I an optional whole number, L any number of lists
SIGNATURES = {
    "range_func_up": "ii", "range_func_interval": "iii", "repeat_num": "ii", "set_list": "l",
    "repeat_list": "il", "reverse_list": "l", "substitute": "lii", "get_subsequence_with_jumps": "li",
    "get_subsequence_between_indices": "lii", "max_n": "li", "min_n": "li", "add_item_list": "li",
    "subtract_item_list": "li", "modulo_item_list": "li", "filter": "pl", "scan_add": "lI",
    "add_two_lists": "ll", "subtract_two_lists": "ll", "modulo_two_lists": "ll", "concatenate": "L",
    "interleave": "ll",
}  # fmt: skip
OPERATIONS = tuple(SIGNATURES)
SAME = ""  # the operation of `output = sequence_N`
MAX_LINES = 1000
MAX_VALUES = 1_000_000
MAX_NUMBER_BITS = 1024  # of a number in a program of the DSL; a text with a larger one is other Python
OPTIONAL = {"scan_add": "initializer"}


class Ref(NamedTuple):
    """The value of an earlier line, counted from 0."""

    line: int


Argument = int | Ref | tuple[int, ...] | str


class Line(NamedTuple):
    """One assignment: an operation and its arguments; a tuple is a literal list, a str a predicate."""

    operation: str
    arguments: tuple[Argument, ...]


class Program(NamedTuple):
    """Lines in order; the last one is `output`, the one before it `sequence_N`."""

    lines: tuple[Line, ...]

    def __str__(self) -> str:
        """Write the program with the DSL's names: sequence_1, sequence_2, .., output."""
        names = [f"sequence_{i + 1}" for i in range(len(self.lines) - 1)] + ["output"]
        return "".join(f"{name} = {text(line)}\n" for name, line in zip(names, self.lines, strict=True))


class NotDsl(ValueError):
    """A text is no program of the DSL; it may still be Python. The message says where and why."""


def text(line: Line) -> str:
    """Return the right side of one assignment."""
    written = ", ".join(map(_argument, line.arguments))
    return f"{line.operation}({written})" if line.operation else written


def _argument(argument: Argument) -> str:
    match argument:
        case Ref(line=line):
            return f"sequence_{line + 1}"
        case tuple():
            return f"[{', '.join(map(str, argument))}]"
        case _:
            return str(argument)


def parse(source: str) -> Program:
    """Read a program, whatever its variables are called; comments and spaces do not matter.

    raises  NotDsl for anything but flat assignments of DSL calls that end in the first one to `output`
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotDsl(f"not Python: {error}") from error
    if not body or len(body) > MAX_LINES:
        raise NotDsl(f"{len(body)} lines; a program has 1 to {MAX_LINES}")
    known: dict[str, int] = {}
    lines: list[Line] = []
    for number, statement in enumerate(body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                raise NotDsl(f"line {statement.lineno}: no plain assignment")
        if name in SIGNATURES or name in PREDICATES:
            raise NotDsl(f"line {statement.lineno}: {name} is an operation, no place for a value")
        last = number == len(body) - 1
        if (name == "output") != last:
            raise NotDsl(f"line {statement.lineno}: `output` is assigned once, in the last line")
        lines.append(_line(value, known, last))
        known[name] = number
    return Program(tuple(lines))


def _line(node: ast.expr, known: dict[str, int], last: bool) -> Line:
    if last and isinstance(node, ast.Name):
        return Line(SAME, (_read(node, "l", known),))
    match node:
        case ast.Call(func=ast.Name(id=name), args=given, keywords=named) if name in SIGNATURES:
            pass
        case _:
            raise NotDsl(f"line {node.lineno}: no call of a DSL operation")
    if len(named) == 1 and named[0].arg == OPTIONAL.get(name):
        given = [*given, named[0].value]
    elif named:
        raise NotDsl(f"line {node.lineno}: {name} takes no such named argument")
    kinds = SIGNATURES[name]
    if kinds == "L":
        return Line(name, tuple(_read(item, "l", known) for item in given))
    if not len(kinds.rstrip("I")) <= len(given) <= len(kinds):
        raise NotDsl(f"line {node.lineno}: {name} takes {len(kinds)} arguments, found {len(given)}")
    read = (_read(item, kind, known) for item, kind in zip(given, kinds, strict=False))
    return Line(name, tuple(read))


def _read(node: ast.expr, kind: str, known: dict[str, int]) -> Argument:
    if kind == "p" and isinstance(node, ast.Name) and node.id in PREDICATES:
        return node.id
    if kind == "l" and isinstance(node, ast.Name) and node.id in known:
        return Ref(known[node.id])
    if kind == "l" and isinstance(node, ast.List):
        return tuple(_number(item) for item in node.elts)
    if kind in "iI":
        return _number(node)
    raise NotDsl(f"line {node.lineno}: {_shown(node)} cannot stand here")


def _number(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            found = value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))) if not isinstance(
            value, bool
        ):
            found = -value
        case _:
            raise NotDsl(f"line {node.lineno}: {_shown(node)} is no whole number")
    if found.bit_length() > MAX_NUMBER_BITS:
        raise NotDsl(f"line {node.lineno}: a number of {found.bit_length()} bits")
    return found


def _shown(node: ast.expr) -> str:
    """Return the beginning of an expression; of one nested too deep to be written, its kind."""
    try:
        return ast.unparse(node)[:60]
    except (RecursionError, ValueError):
        return f"this {type(node).__name__}"


def values(program: Program) -> list[list[int]]:
    """Return every line's value, the output's last.

    raises  ValueError, ZeroDivisionError as the DSL does; OverflowError if all of it is over MAX_VALUES
    """
    found: list[list[int]] = []
    room = MAX_VALUES
    for line in program.lines:
        value, room = next_value(line, found, room)
        found.append(value)
    return found


def next_value(line: Line, found: list[list[int]], room: int = MAX_VALUES) -> tuple[list[int], int]:
    """Return the value of the line behind those whose values are found, and how many values are left then.

    room    values that it may take
    raises  as `values`
    """
    arguments = [_value(argument, found) for argument in line.arguments]
    if line.operation in ("repeat_num", "repeat_list"):
        size = arguments[0] * (1 if line.operation == "repeat_num" else len(arguments[1]))
    elif line.operation.startswith("range"):
        size = len(range(*arguments))
    else:
        size = sum(len(a) for a in arguments if isinstance(a, list))
    room -= max(size, 0)
    if room < 0:
        raise OverflowError(f"{text(line)[:60]}: over {MAX_VALUES} values in all")
    return (getattr(dsl, line.operation)(*arguments) if line.operation else arguments[0]), room


def _value(argument: Argument, found: list[list[int]]):  # type: ignore[no-untyped-def]
    match argument:
        case Ref(line=line):
            return found[line]
        case tuple():
            return list(argument)
        case str():
            return getattr(dsl, argument)
        case _:
            return argument
