"""Take tests apart: the candidate's calls on one side, what is asserted of their values on the other.

`assert f(3) == 4` becomes the call `f(3)`, which goes to the jail, and the remainder `assert H[0] == 4`,
which stays with the judge. Every maximal call whose root name the judge does not know is the candidate's.
Nothing but literals is ever evaluated here, and the result depends on tests and setup only, never on the
program: so a program that defines `sorted` or `len` of its own changes nothing, and a plan serves a whole
group.

What the judge cannot evaluate alone is refused with its line and reason: names bound by the test inside a
call's arguments, loops, try, helper functions, names that nobody defines.

Three rules decide what a call is.
- `f(x).lower()` sends `f(x)`, and `lower` is the judge's, as it is a method of plain values. What follows on
  something else, `f(x).area()` or anything after a class, `Stack(3).pop()`, belongs to the call.
- Where no test calls an unknown name but all call the same builtin, as in MBPP task 126 (`sum(10, 15) == 6`),
  that builtin is the candidate's, and must be defined by it.
- Calls of a helper the setup defines are refused outside a candidate's arguments: the candidate could
  redefine it. Its imports from the known modules, and its constants, are the judge's.

Not covered: what a test itself leaves to the candidate. `f(3)` alone asks only that nothing is raised,
`f(3) == g(3)` that both agree, `same(f(3), 4)`, where nobody but the candidate could define `same`, that it
answers what is true. An expected constant in the setup is visible to the program.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sandbox_service.calls import Calls
from sandbox_service.fill import Local, NotSplit
from sandbox_service.foregone import passing_answer
from sandbox_service.known import ALL_BUILTINS, MODULES

HOLES = "H"
# What can rebind a name of the setup without naming it.
_BACK_DOORS = frozenset(("globals", "locals", "vars", "exec", "eval", "setattr", "__import__"))


@dataclass(frozen=True)
class Split:
    """One test apart. `calls` are expressions for the jail; `remainder` is Python with `H[i]` for each.

    passing  the one call's answer, encoded, that is known to pass; empty where only the worker can tell
    """

    source: str
    calls: tuple[str, ...]
    remainder: str
    passing: bytes = field(default=b"", compare=False)


@dataclass(frozen=True)
class Refusal:
    """One test that cannot be split: where (line of the test, from 1) and why.

    nothing  it tests nothing of a program, however it is run
    """

    source: str
    line: int
    reason: str
    nothing: bool = False

    @property
    def broken(self) -> bool:
        """Whether no assurance helps: the test itself has to be corrected."""
        return self.nothing or self.reason.startswith(("not Python", "the setup: "))


def split(tests: Sequence[str], setup: str = "") -> tuple[Split | Refusal, ...]:
    """Split the tests of one job; one answer each, in order. Never raises and never evaluates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in a test are the client's, not this service's
        return _split(tests, setup)


def _split(tests: Sequence[str], setup: str) -> tuple[Split | Refusal, ...]:
    given = _parse(setup)
    if isinstance(given, Refusal):
        return tuple(Refusal(test, given.line, f"the setup: {given.reason}") for test in tests)
    trees = [_parse(test) for test in tests]
    entries = _builtin_entries([tree for tree in trees if isinstance(tree, ast.Module)])
    return tuple(
        tree if isinstance(tree, Refusal) else _split_one(test, tree, given, entries)
        for test, tree in zip(tests, trees, strict=True)
    )


def _parse(source: str) -> ast.Module | Refusal:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        return Refusal(source, error.lineno or 1, f"not Python: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return Refusal(source, 1, f"not Python: {type(error).__name__}")


def _split_one(source: str, tree: ast.Module, setup: ast.Module, entries: frozenset[str]) -> Split | Refusal:
    try:
        return _Test(source, tree, setup, entries).split()
    except NotSplit as why:
        return Refusal(source, why.line, why.reason)
    except (ValueError, RecursionError, MemoryError) as error:
        return Refusal(source, 1, f"too deeply nested: {type(error).__name__}")


def _builtin_entries(trees: list[ast.Module]) -> frozenset[str]:
    """Return the one builtin that is the candidate's, where the tests call no other unknown name."""
    called = [set(_callees(tree)) for tree in trees]
    everything = set[str]().union(*called)
    if not everything or everything - ALL_BUILTINS:
        return frozenset()
    common = set.intersection(*[names for names in called if names])
    return frozenset(common) if len(common) == 1 else frozenset()


def _callees(tree: ast.Module) -> Iterator[str]:
    """Yield the root name of every call that is not of a known module's function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            root: ast.expr = node.func
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and not (root.id in MODULES and root is not node.func):
                yield root.id


class _Test:
    """The walk over one test: first the setup for what it lends the judge, then the test's statements."""

    def __init__(self, source: str, tree: ast.Module, setup: ast.Module, entries: frozenset[str]) -> None:
        self.source, self.tree = source, tree
        self.calls = Calls(source, entries, tree)
        self.statements: list[ast.stmt] = []
        self._lend(setup)

    def split(self) -> Split:
        for statement in self.tree.body:
            self._statement(statement)
        if not self.statements:
            raise NotSplit(1, "it asserts nothing")
        module = ast.fix_missing_locations(ast.Module(self.statements, []))
        calls = tuple(self.calls.found)
        if self.calls.mutated and len(calls) > 1:
            raise NotSplit(self.calls.mutated, "a value is changed, which another call may have given too")
        passing = passing_answer(self.statements) if len(calls) == 1 else b""
        return Split(self.source, calls, ast.unparse(module), passing)

    def _lend(self, setup: ast.Module) -> None:
        """Take the setup's imports, and its constants that nothing can change; remember its other names as
        not the judge's. What `import *` brings is asked of the program, which may have one of its own."""
        times = Counter(name for statement in setup.body for name in _bound(statement))
        hidden = any(isinstance(part, ast.Name) and part.id in _BACK_DOORS for part in ast.walk(setup))
        for statement in setup.body:
            names = set(_bound(statement)) - {"*"}
            try:
                if hidden or any(times[name] > 1 for name in names):
                    raise NotSplit(statement.lineno, "")
                match statement:
                    case ast.ImportFrom(names=[ast.alias(name="*")]):
                        pass
                    case ast.Import() | ast.ImportFrom():
                        self.calls.import_(statement)
                    case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_constant(
                        value
                    ) and _is_immutable(value):
                        self.calls.inline[name] = value
                    case _:
                        raise NotSplit(statement.lineno, "")
            except NotSplit:
                self.calls.setup |= names
                for name in names:
                    self.calls.aliases.pop(name, None)
                    self.calls.inline.pop(name, None)

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assert(test=ast.Tuple(elts=[_, *_])):
                raise NotSplit(statement.lineno, "an assert of a tuple, which is always true")
            case ast.Assert():
                kept: ast.stmt = ast.Assert(self.calls.visit(statement.test), None)
            case ast.Expr():
                kept = ast.Expr(self.calls.visit(statement.value))
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if (
                statement.value is not None
            ):
                kept = self._assign(name, statement.value)
            case ast.Import() | ast.ImportFrom():
                self.calls.import_(statement)
                return
            case ast.Pass():
                return
            case _:
                kind = f"a statement of kind {type(statement).__name__}"
                rule = "only asserts, calls, assignments to a name and known imports can be taken apart"
                raise NotSplit(statement.lineno, f"{kind}; {rule}")
        self.statements.append(ast.copy_location(kept, statement))

    def _assign(self, name: str, value: ast.expr) -> ast.stmt:
        match value:
            case ast.Call(func=ast.Name(id=kind)) if kind[:1].isupper() and self.calls.is_candidates(kind):
                raise NotSplit(value.lineno, f"`{name}` is an object of the program, which keeps state")
        before = len(self.calls.found)
        original = copy.deepcopy(value)
        kept = self.calls.visit(value)
        if name == HOLES:
            raise NotSplit(value.lineno, f"the name {HOLES} is the judge's")
        if name in self.calls.locals or name in self.calls.aliases or len(self.calls.found) > before:
            self.calls.locals[name] = Local(None, False)
        else:
            self.calls.locals[name] = Local(original, _is_constant(value) and _is_immutable(value))
        return ast.Assign([ast.Name(name, ast.Store())], kept)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield every name a statement of the setup may define at the top, generously."""
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name.partition(".")[0]


def _is_constant(value: ast.expr) -> bool:
    """Whether an expression is a literal: constants, signs, and displays of them."""
    allowed = (
        ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp,
        ast.unaryop, ast.operator, ast.expr_context,
    )  # fmt: skip
    return all(isinstance(node, allowed) for node in ast.walk(value))


def _is_immutable(value: ast.expr) -> bool:
    return not any(isinstance(node, ast.List | ast.Set | ast.Dict) for node in ast.walk(value))
