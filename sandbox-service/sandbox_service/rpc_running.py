"""Tell what of a test's text runs: its statements, and of what it defines, all that these mention.

Read off the text by names alone, and generously: what is not seen to be left out is taken to run. Not seen: a
loop that comes to nothing, a condition that never holds, a generator nobody asks, a failure that is counted
and then forgotten.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

_LOOKS_UP = frozenset(("globals", "locals", "vars", "dir", "eval", "exec", "getattr", "__import__"))
_CATCHING = frozenset(("AssertionError", "Exception", "BaseException"))
RAISES = frozenset(("raises", "assertRaises", "assertRaisesRegex"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Running:
    """What was found to run.

    read    the names it reads
    named   those and its attributes, each with whether a failure there is heard
    checks  the lines of what may fail a test, each with whether that is heard
    mains   the lines that call `main` of a test library
    acts    whether it calls or asserts anything
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.named: dict[str, bool] = {}
        self.checks: list[tuple[int, bool]] = []
        self.mains: list[int] = []
        self.acts = False
        self._bodies: dict[str, list[ast.AST]] = {}
        self._waiting: list[tuple[ast.AST, bool]] = []

    @property
    def looks_up(self) -> bool:
        """Whether it may call what it defines without naming it."""
        return not self.read.isdisjoint(_LOOKS_UP)

    def run(self, parts: Sequence[ast.AST]) -> None:
        """Take these to run, and what they mention."""
        self._push(parts, True)
        while self._waiting:
            self._one(*self._waiting.pop())

    def call(self, names: Iterable[str]) -> None:
        """Take what has these names to be called."""
        for name in names:
            self._mention(name, True)
        self.run(())

    def forget(self) -> None:
        """Keep what was defined, and nothing else."""
        self.read, self.named, self.checks, self.mains, self.acts = set(), {}, [], [], False

    def _push(self, parts: Iterable[ast.AST], heard: bool) -> None:
        block = []
        for part in parts:
            block.append((part, heard))
            if isinstance(part, ast.Return | ast.Raise | ast.Break | ast.Continue):
                break  # what stands after it in the same block is never reached
        self._waiting += reversed(block)

    def _children(self, part: ast.AST, heard: bool) -> None:
        for _, value in ast.iter_fields(part):
            if isinstance(value, list):
                self._push([one for one in value if isinstance(one, ast.AST)], heard)
            elif isinstance(value, ast.AST):
                self._push([value], heard)

    def _mention(self, name: str, heard: bool) -> None:
        if name not in self.named or (heard and not self.named[name]):
            self.named[name] = heard
            for body in self._bodies.get(name, ()):
                self._enter(body, heard)

    def _define(self, name: str, body: ast.AST) -> None:
        """A function, or another name for one, that runs when this name is mentioned."""
        bodies = self._bodies.setdefault(name, [])
        if all(body is not one for one in bodies):
            bodies.append(body)
            if name in self.named:
                self._enter(body, self.named[name])

    def _enter(self, body: ast.AST, heard: bool) -> None:
        if isinstance(body, Function):
            self._push([body.args], heard)
            self._push(body.body, heard)
        else:
            self._push([body], heard)

    def _one(self, part: ast.AST, heard: bool) -> None:
        match part:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._definition(part, heard)
            case ast.Assign(
                targets=[ast.Name(id=name) | ast.Attribute(attr=name)],
                value=ast.Lambda() | ast.Name() as value,
            ):
                self._define(name, value)
            case ast.Expr(value=ast.Name() | ast.Lambda() | ast.Constant()) | ast.arg():
                pass
            case ast.AnnAssign(value=value):
                self._push([] if value is None else [value], heard)
            case ast.If() | ast.IfExp() | ast.While() | ast.For() if (kept := _kept(part)) is not None:
                self._push(kept, heard)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                left = any(isinstance(one, ast.Return | ast.Break | ast.Continue) for one in final)
                self._push(body, heard and not left and not _swallows(handlers))
                for block in (handlers, orelse):
                    self._push(block, heard and not left)
                self._push(final, heard)
            case ast.With(items=items, body=body):
                self._push(items, heard)
                self._push(body, heard and not any(_suppresses(item.context_expr) for item in items))
            case ast.Name(id=name, ctx=ast.Load()):
                self.read.add(name)
                self._mention(name, heard)
            case _:
                if isinstance(part, ast.Attribute):
                    self._mention(part.attr, heard)
                self._weigh(part, heard)
                self._children(part, heard)

    def _weigh(self, part: ast.AST, heard: bool) -> None:
        """Note what may fail the test."""
        match part:
            case ast.Assert(test=ast.Constant(value=value)) if value:
                pass
            case ast.Assert() | ast.Raise():
                self.acts = True
                self.checks.append((part.lineno, heard))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="unittest" | "pytest"), attr="main")):
                self.mains.append(part.lineno)
            case ast.Call(func=func):
                self.acts = True
                name = name_of(func)
                if name in RAISES or name == "fail" or name.startswith("assert"):
                    self.checks.append((part.lineno, heard))

    def _definition(self, part: Function | ast.ClassDef, heard: bool) -> None:
        self._push(part.decorator_list, heard)
        if isinstance(part, ast.ClassDef):
            self._push([*part.bases, *part.keywords], heard)
            for one in part.body:
                if isinstance(one, Function) and one.name.startswith("__"):
                    self._push(one.decorator_list, heard)
                    self._define(part.name, one)
                else:
                    self._push([one], heard)
        else:
            self._define(part.name, part)
        if any(name_of(one) in self._bodies for one in part.decorator_list):
            self._mention(part.name, heard)


def name_of(part: ast.AST) -> str:
    """Return the last name of `a`, `a.b` or a call of them."""
    match part:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=func):
            return name_of(func)
    return ""


def _kept(part: ast.If | ast.IfExp | ast.While | ast.For) -> list[ast.AST] | None:
    """Return the branch that is taken, where the text says which."""
    if isinstance(part, ast.For):
        return [*part.orelse] if isinstance(part.iter, ast.List | ast.Tuple) and not part.iter.elts else None
    match part.test:
        case ast.Constant(value=value):
            holds = bool(value)
        case ast.Compare(
            left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant(value=value)]
        ):
            holds = value == "test"
        case _:
            return None
    if isinstance(part, ast.While) and holds:
        return None
    branch = part.body if holds else part.orelse
    return [*branch] if isinstance(branch, list) else [branch]


def _swallows(handlers: Sequence[ast.ExceptHandler]) -> bool:
    """Whether a failed assertion goes to a handler that does nothing, or prints."""
    for handler in handlers:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if any(kind is None or name_of(kind) in _CATCHING for kind in kinds):
            return all(_is_idle(one) for one in handler.body)
    return False


def _is_idle(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Continue() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
            return True
    return False


def _suppresses(part: ast.expr) -> bool:
    return (
        isinstance(part, ast.Call)
        and name_of(part) == "suppress"
        and any(name_of(kind) in _CATCHING for kind in part.args)
    )


def defined(body: Iterable[ast.AST]) -> Iterator[Function | ast.ClassDef]:
    """Yield the functions and classes of a module, those under an `if` or a `try` too."""
    for part in body:
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part
        elif isinstance(part, ast.stmt | ast.ExceptHandler):
            yield from defined(ast.iter_child_nodes(part))
