"""Decide whether a test can run in the judge while the program answers its calls, and what it needs there.

The test keeps its loops, helpers, `try` and classes; the names it does not define itself are the program's.
Nothing is evaluated here, and the answer depends on test and setup only, never on the program.

Refused, with line and reason: modules that are not there, files and input, what of pytest is not there,
classes of the test that derive from the program's, tests where nothing that runs names the program, and those
whose every failure they swallow. Not covered: what a test leaves to the program, `f(3) == f(3)` or an order
of its own objects; and what `rpc_running` does not see.
"""

from __future__ import annotations

import ast
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox_service.known import ALL_BUILTINS, FOREIGN
from sandbox_service.rpc_collect import Collection
from sandbox_service.rpc_running import RAISES, Running, defined, name_of

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
_PYTEST = frozenset(("raises", "approx", "fail", "param", "mark"))
_MARKS = {"parametrize": ("argnames", "argvalues", "ids"), "param": ("id",)}
_MODULE_NAMES = frozenset(("__name__", "__doc__", "__file__", "__builtins__", "__debug__"))


@dataclass(frozen=True)
class Remote:
    """One test that runs in the judge.

    names    what it takes from the program: functions, classes, values
    errors   the program's exception classes that it only expects
    collect  the tests it defines and does not run itself (`test_*`, `unittest.TestCase`)
    line     where it cannot be taken apart
    reason   why
    """

    source: str
    setup: str
    names: tuple[str, ...]
    errors: tuple[str, ...]
    collect: tuple[str, ...]
    line: int = 0
    reason: str = ""


class NotRemote(Exception):
    """This test cannot run in the judge: the line, and why."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line, self.reason = line, reason


def remote(source: str, setup: str) -> Remote:
    """Plan one test. Raises NotRemote with the line and the reason."""
    try:
        tree, given, theirs = _read(source, setup)
    except SyntaxError as error:
        raise NotRemote(error.lineno or 1, f"not Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotRemote(1, f"too deeply nested: {type(error).__name__}") from None
    pytest = _pytest(given) | _pytest(tree)
    for part in (*ast.walk(given), *ast.walk(tree)):
        _check(part)
        if pytest:
            _check_pytest(part, pytest)
    for part in (*ast.walk(given), *ast.walk(tree)):
        match part:
            case ast.ClassDef(name=name, bases=bases):
                for base in bases:
                    if isinstance(base, ast.Name) and base.id in theirs:
                        raise NotRemote(
                            part.lineno, f"its class `{name}` derives from `{base.id}` of the program"
                        )
            case ast.MatchClass(cls=ast.Name(id=name)) if name in theirs:
                raise NotRemote(part.lineno, f"a pattern of the class `{name}` of the program")
            case ast.Attribute(value=ast.Name(id=name)) if name in theirs & FOREIGN:
                raise NotRemote(part.lineno, f"the module `{name}` is not imported")
    errors = {name for name in _expected(tree) if name in theirs}
    try:
        collect = _tests(tree, given, theirs - errors)
    except RecursionError:
        raise NotRemote(1, "too deeply nested") from None
    return Remote(source, setup, tuple(sorted(theirs - errors)), tuple(sorted(errors)), collect)


def _read(source: str, setup: str) -> tuple[ast.Module, ast.Module, frozenset[str]]:
    """Parse a text and its setup; return also the names that only the program can have. Raises as `ast`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd escapes in a test are the client's, not this service's
        tree, given = ast.parse(source), ast.parse(setup)
        (used, bound), (lent_used, lent) = _names(source), _names(setup)
    return tree, given, frozenset((used | lent_used) - (bound | lent | ALL_BUILTINS | _MODULE_NAMES))


def _tests(tree: ast.Module, given: ast.Module, names: frozenset[str]) -> tuple[str, ...]:
    """Return the tests to run besides the text itself.

    names   the program's
    raises  NotRemote where what runs does not test the program
    """
    running = _run(tree, given)
    tests = Collection(tree, given, running)
    for fault in tests.faults:
        raise NotRemote(fault.line, fault.reason)
    if running.mains:
        raise NotRemote(
            min(running.mains), "`main` is not there: the tests a text defines are run without it"
        )
    if nothing := _nothing(tree, running, names):
        raise nothing
    return tuple(tests.names)


def tests_nothing(source: str, setup: str) -> NotRemote | None:
    """Return why a text that is executed beside the program as it stands tests nothing of it.

    returns  None where it does, or where that cannot be seen
    """
    try:
        tree, given, theirs = _read(source, setup)
        return _nothing(tree, _run(tree, given), theirs)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _run(tree: ast.Module, given: ast.Module) -> Running:
    """Follow what runs of the setup and then of the text."""
    running = Running()
    running.run(given.body)
    running.forget()
    running.run(tree.body)
    return running


def _nothing(tree: ast.Module, running: Running, names: frozenset[str]) -> NotRemote | None:
    """Return why what runs tests nothing of a program with these names; None where it does."""
    if not names or not (running.looks_up or names & running.read):
        uncalled = [one for one in defined(tree.body) if one.name not in running.named]
        if uncalled:
            line, name = uncalled[-1].lineno, uncalled[-1].name
            return NotRemote(line, f"it defines `{name}` and never calls it: end it with `{name}(...)`")
        return NotRemote(1, "it never calls the program")
    if not running.acts:
        return NotRemote(1, "it asserts nothing")
    if running.checks and not any(heard for _, heard in running.checks):
        return NotRemote(running.checks[0][0], "it swallows every failure of its own asserts")
    return None


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
            if module == "unittest" and any(alias.name in ("mock", "main") for alias in names):
                raise NotRemote(part.lineno, "of unittest, `mock` and `main` are not there for a test")
        case ast.Attribute(value=ast.Name(id="unittest"), attr="mock"):
            raise NotRemote(part.lineno, "`unittest.mock` is not there for a test")
        case ast.Name(id=name, ctx=ast.Load()) if name in _ABSENT:
            raise NotRemote(part.lineno, f"`{name}` is not there for a test")
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            raise NotRemote(part.lineno, "async code is not run in the judge")
        case ast.Assert(test=ast.Tuple(elts=[_, *_]) | ast.Lambda() | ast.GeneratorExp()):
            raise NotRemote(part.lineno, "an assert of a tuple or a function, which is always true")


def _pytest(tree: ast.Module) -> set[str]:
    """Return the names a text has for pytest, and `mark` where it imports that."""
    found = set()
    for part in ast.walk(tree):
        match part:
            case ast.Import(names=names):
                found |= {one.asname or one.name for one in names if one.name == "pytest"}
            case ast.ImportFrom(module="pytest", names=names):
                found |= {one.asname or one.name for one in names}
    return found


def _check_pytest(part: ast.AST, pytest: set[str]) -> None:
    """Refuse what the judge's pytest does not have."""
    absent = ""
    match part:
        case ast.ImportFrom(module="pytest", names=names):
            absent = next((one.name for one in names if one.name not in _PYTEST), "")
        case ast.Attribute(value=ast.Name(id="mark") | ast.Attribute(attr="mark") as mark, attr=name) if (
            name != "parametrize"
            and (mark.id if isinstance(mark, ast.Name) else name_of(mark.value)) in pytest
        ):
            absent = f"mark.{name}"
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in pytest - {"mark"}:
            absent = name if name not in _PYTEST | {"main"} else ""
        case ast.Call(func=func, keywords=keywords) if name_of(func) in _MARKS:
            allowed = _MARKS[name_of(func)]
            absent = next((f"{name_of(func)}({one.arg}=)" for one in keywords if one.arg not in allowed), "")
        case ast.ClassDef(decorator_list=[_, *_] as marks):
            absent = "mark.parametrize of a class" if "parametrize" in map(name_of, marks) else ""
    if absent:
        raise NotRemote(getattr(part, "lineno", 1), f"`pytest.{absent}` is not there for a test")


def _importable(module: str, line: int) -> None:
    if module not in _SUBMODULES and module not in MODULES:
        raise NotRemote(line, f"the module `{module}` is not available to the judge")


def _expected(tree: ast.Module) -> Iterator[str]:
    """Yield the names a test raises, or expects to be: in `except`, and by the `raises` of test libraries."""
    for part in ast.walk(tree):
        kinds: list[ast.expr] = []
        match part:
            case ast.ExceptHandler(type=ast.expr() as kind):
                kinds = [kind]
            case ast.Raise(exc=ast.Call(func=ast.Name() as kind) | (ast.Name() as kind)):
                kinds = [kind]
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[kind, *_]) if (
                name in RAISES
            ):
                kinds = [kind]
        for kind in kinds:
            for one in ast.walk(kind):
                if isinstance(one, ast.Name):
                    yield one.id
