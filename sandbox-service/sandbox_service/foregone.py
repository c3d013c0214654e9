"""Tests with an answer that is known to pass: `assert f(3) == [4]` does if `[4]` came, byte for byte.

The codec gives bytes one meaning, so equal bytes are equal values. Other bytes prove nothing, for 4.0 is 4
too: they go to the worker, which compares. It is left one in three hundred tests of MBPP's references.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from sandbox_service.inside.codec import encode

# Displays of literals: the codec carries them as they are, and each equals itself. No name, no call, no sum.
_PARTS = (
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.USub, ast.Load,
)  # fmt: skip


def passing_answer(statements: Sequence[ast.stmt]) -> bytes:
    """Return the answer to a test's only call with which it passes, encoded; empty where that is not plain.

    statements  the test's remainder: `H[0]` stands for the call
    """
    match statements:
        case [ast.Assert(test=test)]:
            pass
        case _:
            return b""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]) if _is_hole(left):
            return _encoded(right)
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]) if _is_hole(right):
            return _encoded(left)
        case ast.Compare(
            left=left, ops=[ast.Is()], comparators=[ast.Constant(value=True | False | None as one)]
        ) if _is_hole(left):
            return encode(one)
        case ast.UnaryOp(op=ast.Not(), operand=operand) if _is_hole(operand):
            return encode(False)
        case _ if _is_hole(test):
            return encode(True)
    return b""


def _is_hole(node: ast.expr) -> bool:
    match node:
        case ast.Subscript(value=ast.Name(id="H"), slice=ast.Constant(value=0)):
            return True
    return False


def _encoded(node: ast.expr) -> bytes:
    if not all(isinstance(part, _PARTS) for part in ast.walk(node)):
        return b""
    try:
        data = encode(ast.literal_eval(node))
    except (ValueError, TypeError, RecursionError, MemoryError):
        return b""
    return b"" if data.startswith(b'["x"') else data  # over one of the codec's budgets
