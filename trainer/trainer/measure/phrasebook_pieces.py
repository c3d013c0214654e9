"""The pieces a program is made of, as a phrasebook names them: names, calls, operators with what they take.

Pieces are strings that say how they look in code. They come from the syntax tree, so layout and the order of
lines do not count.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>", ast.MatMult: "@",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is",
    ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.Not: "not", ast.USub: "-", ast.UAdd: "+",
    ast.Invert: "~", ast.And: "and", ast.Or: "or",
}  # fmt: skip


def pieces_of(program: str) -> frozenset[str] | None:
    """Return the pieces of a program; None for what is no Python."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return frozenset(piece for node in ast.walk(tree) for piece in _named(node))


def _named(node: ast.AST) -> Iterator[str]:
    """Give the pieces that one node stands for."""
    match node:
        case ast.FunctionDef(name=name, args=arguments):
            yield f"def {name}"
            yield from (f"argument {a.arg}" for a in arguments.args)
        case ast.For(target=target):
            yield f"for {ast.unparse(target)} in"
        case ast.If():
            yield "if"
        case ast.Call(func=ast.Name(id=name), keywords=keywords):
            yield f"{name}(…)"
            yield from (ast.unparse(k) for k in keywords)
        case ast.Call(func=ast.Attribute(attr=name), keywords=keywords):
            yield f".{name}(…)"
            yield from (ast.unparse(k) for k in keywords)
        case ast.BinOp(op=op, right=right):
            yield from _taking(_OPERATORS[type(op)], right)
        case ast.Compare(ops=[op], comparators=[right]):
            yield from _taking(_OPERATORS[type(op)], right)
        case ast.BoolOp(op=op) | ast.UnaryOp(op=op):
            yield _OPERATORS[type(op)]
        case ast.AugAssign(op=op):
            yield f"{_OPERATORS[type(op)]}="
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield f"{name} = {_short(value)}"
        case ast.Subscript(slice=place):
            yield f"[{_short(place)}]"
        case ast.Constant(value=value):
            yield f"constant {value!r}"
        case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() | ast.DictComp():
            yield "comprehension"
        case ast.Lambda():
            yield "lambda"
        case ast.While():
            yield "while"


def _taking(operator: str, right: ast.expr) -> Iterator[str]:
    """Give an operator, and the operator with its constant."""
    yield operator
    if isinstance(right, ast.Constant):
        yield f"{operator} {right.value!r}"


def _short(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 12 else "…"


def joined(programs: Sequence[frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the classes of pieces that always stand together, by their joined name.

    programs  [N] the pieces of each; a symbol cannot be told to mean one of a class rather than another
    """
    stands: defaultdict[str, list[int]] = defaultdict(list)
    for place, pieces in enumerate(programs):
        for piece in pieces:
            stands[piece].append(place)
    classes: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for piece, places in stands.items():
        # What stands everywhere says nothing about any one program.
        if len(places) < len(programs):
            classes[tuple(places)].append(piece)
    return {" · ".join(sorted(found)): frozenset(found) for found in classes.values()}
