"""What of Python no object can answer for another, in a test that the judge runs: `is`, `type(x)`, some
builtins, and what a test imports. Each is put in words that ask where the object is the program's. Standard
library only, and of this room what is.
"""

from __future__ import annotations

import abc
import ast
import builtins
import dataclasses
import types
from types import CodeType
from typing import Any

from sandbox_service.inside.mirrors import KINDS as MUTABLE
from sandbox_service.rpc_library import PYTEST
from sandbox_service.rpc_plan import MODULES
from sandbox_service.rpc_remote import Link, Own, Remote
from sandbox_service.rpc_values import COPIED, KINDS, LIBRARY

_IS, _KIND = "<is>", "<type>"
_OF_DATACLASSES = ("asdict", "astuple", "fields", "is_dataclass", "replace")
_WHOLE = frozenset((*COPIED, *MUTABLE.values(), bool, type(None), type(...)))  # no object is of these


def code(source: str, name: str) -> CodeType:
    """Compile a text of the test's."""
    tree = ast.parse(source)
    bound = {
        part.id for part in ast.walk(tree) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }
    bound |= {part.arg for part in ast.walk(tree) if isinstance(part, ast.arg)}
    return compile(ast.fix_missing_locations(_Rewrite("type" not in bound).visit(tree)), name, "exec")


class _Rewrite(ast.NodeTransformer):
    def __init__(self, kinds: bool) -> None:
        self.kinds = kinds

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.Compare(ops=[ast.Is() | ast.IsNot() as op], comparators=[right]):
                if isinstance(right, ast.Constant) and right.value in (None, True, False, ...):
                    return node
                same = _called(_IS, node.left, right)
                return same if isinstance(op, ast.Is) else ast.UnaryOp(ast.Not(), same)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="type"), args=[one], keywords=[]) if self.kinds and not isinstance(
                one, ast.Starred
            ):
                return _called(_KIND, one)
        return node


def _called(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [*args], [])


def given(link: Link) -> dict[str, Any]:
    """Return the builtins of a text that is compiled by `code`."""

    def same(one: object, other: object) -> bool:
        if one is not other and type(one) is type(other) and type(one) in COPIED and one == other:
            raise link.untold("whether two equal values are one object cannot be told in the judge")
        return one is other

    def kind_of(one: Any) -> Any:
        if not issubclass(type(one), Own):
            return type(one)
        found = link.ask("type", None, (one,), {})
        if type(found) is type and found in _WHOLE:
            raise link.untold(f"an object of the program says that it is a `{found.__name__}`, and is none")
        return found

    def is_instance(one: Any, kind: Any) -> bool:
        if isinstance(kind, tuple):
            return any(is_instance(one, part) for part in kind)
        if not issubclass(type(one), Own) or type(kind) is Remote:
            return isinstance(one, kind)
        if issubclass(type(one), kind) and not isinstance(kind, abc.ABCMeta):
            return True
        known = isinstance(kind, type) and (kind in KINDS or kind.__module__ in LIBRARY[1:])
        return known and link.ask("isinstance", None, (one, kind), {}) is True

    def lacks(one: Any, name: str) -> bool:
        if not (issubclass(type(one), Own) and isinstance(name, str) and name.startswith("__")):
            return False
        try:
            link.ask("get", ("h", link.number(one)), (name,), {})
        except AttributeError:
            return True
        return False

    def has(one: Any, name: str) -> bool:
        return not lacks(one, name) and hasattr(one, name)

    def get(one: Any, name: str, *default: Any) -> Any:
        if not lacks(one, name):
            return getattr(one, name, *default)
        if default:
            return default[0]
        raise AttributeError(name)

    def is_callable(one: Any) -> bool:
        return link.ask("callable", None, (one,), {}) is True if isinstance(one, Own) else callable(one)

    def dataclass_function(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if args and issubclass(type(args[0]), Own):
                return link.ask("call", ("py", ("dataclasses", name)), args, kwargs)
            return getattr(dataclasses, name)(*args, **kwargs)

        return call

    def import_(name: str, space: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        if name == "pytest":
            return PYTEST
        if name == "dataclasses":
            asking = {one: dataclass_function(one) for one in _OF_DATACLASSES}
            return types.SimpleNamespace(**{**vars(dataclasses), **asking})
        if name.partition(".")[0] not in MODULES:
            raise ImportError(f"the module {name!r} is not available to the judge")
        return __import__(name, space, local, wanted, level)

    asking = {
        "__import__": import_,
        _IS: same,
        _KIND: kind_of,
        "isinstance": is_instance,
        "callable": is_callable,
        "hasattr": has,
        "getattr": get,
    }
    return {**vars(builtins), **asking}
