"""Decide whether a test can run in the judge while the program answers its calls, and what it needs there.

The test keeps its loops, helpers, `try` and classes; the names it does not define itself are the program's.
Nothing is evaluated here, and the answer depends on test and setup only, never on the program.

Refused, with line and reason: modules that are not there, files and input, classes of the test that derive
from the program's, tests that call nothing. Not covered: what a test leaves to the program, `f(3) == f(3)`
or an order of its own objects.
"""

from __future__ import annotations

import ast
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox_service.known import ALL_BUILTINS, FOREIGN

MODULES = frozenset((
    "abc", "array", "base64", "binascii", "bisect", "calendar", "cmath", "collections", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io",
    "itertools", "json", "math", "numbers", "operator", "pprint", "pytest", "random", "re", "statistics",
    "string", "struct", "sys", "textwrap", "time", "types", "typing", "unicodedata", "unittest", "warnings",
    "__future__",
))  # fmt: skip
_SUBMODULES = frozenset(("collections.abc",))
_ABSENT = frozenset(
    ("open", "input", "breakpoint", "help", "exit", "quit", "copyright", "credits", "license")
)
_RAISES = frozenset(("raises", "assertRaises", "assertRaisesRegex"))
_MODULE_NAMES = frozenset(("__name__", "__doc__", "__file__", "__builtins__", "__debug__"))


@dataclass(frozen=True)
class Remote:
    """One test that runs in the judge.

    names    what it takes from the program: functions, classes, values
    errors   the program's exception classes that it only expects
    collect  it only defines tests (`test_*`, `unittest.TestCase`): what it defines is to be run
    line     where it cannot be taken apart
    reason   why
    """

    source: str
    setup: str
    names: tuple[str, ...]
    errors: tuple[str, ...]
    collect: bool
    line: int = 0
    reason: str = ""


class NotRemote(Exception):
    """This test cannot run in the judge: the line, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


def remote(source: str, setup: str) -> Remote:
    """Plan one test. Raises NotRemote with the line and the reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in a test are the client's, not this service's
        try:
            tree, given = ast.parse(source), ast.parse(setup)
            used, bound = _names(source)
            lent_used, lent = _names(setup)
        except SyntaxError as error:
            raise NotRemote(error.lineno or 1, f"not Python: {error.msg}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise NotRemote(1, f"too deeply nested: {type(error).__name__}") from None
    for part in (*ast.walk(given), *ast.walk(tree)):
        _check(part)
    known = bound | lent | ALL_BUILTINS | _MODULE_NAMES
    theirs = (used | lent_used) - known
    for part in (*ast.walk(given), *ast.walk(tree)):
        match part:
            case ast.ClassDef(name=name, bases=bases):
                for base in bases:
                    if isinstance(base, ast.Name) and base.id in theirs:
                        raise NotRemote(
                            part.lineno, f"its class `{name}` derives from `{base.id}` of the program"
                        )
            case ast.Attribute(value=ast.Name(id=name)) if name in theirs & FOREIGN:
                raise NotRemote(part.lineno, f"the module `{name}` is not imported")
    errors = {name for name in _expected(tree) if name in theirs}
    collect = _only_defines(tree)
    if not theirs - errors:
        raise NotRemote(1, "it never calls the program")
    return Remote(source, setup, tuple(sorted(theirs - errors)), tuple(sorted(errors)), collect)


def _names(source: str) -> tuple[set[str], set[str]]:
    """Return the global names a text reads, in any of its scopes, and those it binds."""
    top = symtable.symtable(source, "<test>", "exec")
    used: set[str] = set()
    bound = {
        one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()
    }  # a def and a class are assigned
    scopes = [top]
    for scope in scopes:
        scopes += scope.get_children()
        for one in scope.get_symbols():
            if one.is_declared_global() and one.is_assigned():
                bound.add(one.get_name())
            if one.is_referenced() and (scope is top or one.is_global()):
                used.add(one.get_name())
    return used, bound


def _check(part: ast.AST) -> None:
    """Refuse what is not there for a test."""
    match part:
        case ast.Import(names=names):
            for alias in names:
                _importable(alias.name, part.lineno)
        case ast.ImportFrom(module=module, level=level, names=names):
            if level or not module:
                raise NotRemote(part.lineno, "a relative import")
            if any(alias.name == "*" for alias in names):
                raise NotRemote(part.lineno, f"`from {module} import *` hides what it binds")
            _importable(module, part.lineno)
        case ast.Name(id=name, ctx=ast.Load()) if name in _ABSENT:
            raise NotRemote(part.lineno, f"`{name}` is not there for a test")
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            raise NotRemote(part.lineno, "async code is not run in the judge")


def _importable(module: str, line: int) -> None:
    if module not in _SUBMODULES and module not in MODULES:
        raise NotRemote(line, f"the module `{module}` is not available to the judge")


def _expected(tree: ast.Module) -> Iterator[str]:
    """Yield the names a test expects to be raised: in `except`, and by the `raises` of test libraries."""
    for part in ast.walk(tree):
        kinds: list[ast.expr] = []
        match part:
            case ast.ExceptHandler(type=ast.expr() as kind):
                kinds = [kind]
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[kind, *_]) if (
                name in _RAISES
            ):
                kinds = [kind]
        for kind in kinds:
            for one in ast.walk(kind):
                if isinstance(one, ast.Name):
                    yield one.id


def _only_defines(tree: ast.Module) -> bool:
    """Whether a test only defines tests. Raises NotRemote where it defines something and calls nothing."""
    defines = []
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defines.append(statement)
            case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AnnAssign() | ast.Pass():
                if any(isinstance(part, ast.Call) for part in ast.walk(statement)):
                    return False
            case ast.Expr(value=ast.Constant()):
                pass
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                pass
            case _:
                return False
    if any(isinstance(one, ast.ClassDef) and one.bases for one in defines):
        return True
    if any(isinstance(one, ast.FunctionDef) and one.name.startswith("test") for one in defines):
        return True
    if not defines:
        raise NotRemote(1, "it asserts nothing")
    name = defines[-1].name
    raise NotRemote(defines[-1].lineno, f"it defines `{name}` and never calls it: end it with `{name}(...)`")
