"""Tell which test functions and test classes of a text are to be run, as unittest and pytest would find them.

Left out are functions, and classes of pytest, that the text itself mentions where it runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox_service.rpc_running import Function, Running, defined, name_of

_BEFORE = ("setUp", "setUpClass", "tearDown", "tearDownClass", "setup_method")
_NEVER = ("setUpModule", "setup_module", "setup_function", "setup_class")


@dataclass(frozen=True)
class Fault:
    """Why a test that is defined cannot be run as it stands, and where."""

    line: int
    reason: str


class Collection:
    """The tests of a text.

    names   what to run, in its order
    faults  what cannot be run
    """

    def __init__(self, tree: ast.Module, given: ast.Module, running: Running) -> None:
        self.running = running
        self.names: list[str] = []
        self.faults: list[Fault] = []
        self._classes: dict[str, ast.ClassDef] = {}
        self._cases = {"TestCase"} | set(_case_aliases(tree)) | set(_case_aliases(given))
        for one in (*defined(given.body), *defined(tree.body)):
            if isinstance(one, ast.ClassDef):
                self._classes[one.name] = one
                if any(name_of(base) in self._cases for base in one.bases):
                    self._cases.add(one.name)
        before = dict(running.named)
        left = [one for one in defined(tree.body) if not self._collect(one, before)]
        for one in left:
            self._blame(one)
        self.names = list(dict.fromkeys(self.names))

    def _collect(self, one: Function | ast.ClassDef, before: dict[str, bool]) -> bool:
        """Collect a test, or say that it is none, or none that can be called."""
        if isinstance(one, ast.ClassDef):
            return self._collect_class(one, before)
        if not one.name.startswith("test") or one.name in before or _missing(one, 0, True):
            return False
        self._take(one.name, [one])
        return True

    def _collect_class(self, one: ast.ClassDef, before: dict[str, bool]) -> bool:
        methods = {method.name: method for method in self._methods(one, set())}
        tests = [method for name, method in methods.items() if name.startswith("test")]
        is_case = one.name in self._cases
        if not is_case and (not one.name.startswith("Test") or one.name in before or "__init__" in methods):
            return False
        for method in tests:
            own = 0 if any(name_of(mark) == "staticmethod" for mark in method.decorator_list) else 1
            missing = _missing(method, own, not is_case)
            if missing:
                self.faults.append(Fault(method.lineno, _ungiven(method.name, missing)))
        if tests:
            self.running.call([method.name for method in tests] + [*_BEFORE])
            self._take(one.name, tests)
        return bool(tests)

    def _take(self, name: str, tests: list[Function]) -> None:
        self.names.append(name)
        self.running.call([name])
        for test in tests:
            self.faults += _unheard(test)

    def _methods(self, one: ast.ClassDef, seen: set[str]) -> Iterator[Function]:
        """Yield the methods of a class after those of its bases."""
        if one.name in seen:
            return
        seen.add(one.name)
        for base in one.bases:
            if name_of(base) in self._classes:
                yield from self._methods(self._classes[name_of(base)], seen)
        yield from (part for part in one.body if isinstance(part, Function))

    def _blame(self, one: Function | ast.ClassDef) -> None:
        """Say what is wrong with a test that nothing runs; most definitions are no tests."""
        parts = [one, *one.body] if isinstance(one, ast.ClassDef) else [one]
        for part in parts:
            if isinstance(part, Function) and part.name in _NEVER and part.name not in self.running.named:
                self.faults.append(Fault(part.lineno, f"`{part.name}` is not run in the judge"))
        if not isinstance(one, ast.ClassDef) and one.name.startswith("test"):
            missing = _missing(one, 0, True)
            if missing and one.name not in self.running.named and not self.running.looks_up:
                self.faults.append(Fault(one.lineno, _ungiven(one.name, missing)))


def _case_aliases(tree: ast.Module) -> Iterator[str]:
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and part.module == "unittest":
            yield from (one.asname or one.name for one in part.names if one.name == "TestCase")


def _missing(test: Function, own: int, marks: bool) -> list[str]:
    """Return the parameters nothing gives a value: neither a default nor, with `marks`, `parametrize`.

    own  how many come first that a method is given
    """
    positional = [*test.args.posonlyargs, *test.args.args]
    needed = positional[own : len(positional) - len(test.args.defaults)]
    needed += [
        one
        for one, default in zip(test.args.kwonlyargs, test.args.kw_defaults, strict=True)
        if default is None
    ]
    given = set(_parametrized(test)) if marks else set()
    return [one.arg for one in needed if one.arg not in given]


def _parametrized(test: Function) -> Iterator[str]:
    for mark in test.decorator_list:
        match mark:
            case ast.Call(args=[ast.Constant(value=str(names)), *_]) if name_of(mark) == "parametrize":
                yield from (one.strip() for one in names.split(","))
            case ast.Call(args=[ast.Tuple(elts=elts) | ast.List(elts=elts), *_]) if (
                name_of(mark) == "parametrize"
            ):
                yield from (str(one.value) for one in elts if isinstance(one, ast.Constant))


def _ungiven(name: str, missing: list[str]) -> str:
    return f"nothing gives `{name}` its parameter `{missing[0]}`: call it, or parametrize it"


def _unheard(test: Function) -> Iterator[Fault]:
    """Yield why what a test comes to is lost: it returns it, or is a generator that nobody asks."""
    waiting: list[ast.AST] = [*test.body]
    while waiting:
        part = waiting.pop()
        match part:
            case ast.Yield() | ast.YieldFrom():
                yield Fault(part.lineno, f"`{test.name}` is a generator, which nobody asks")
            case ast.Return(value=ast.expr() as value) if not (
                isinstance(value, ast.Constant) and (value.value is None or value.value is True)
            ):
                yield Fault(part.lineno, f"`{test.name}` returns a value, which nobody looks at: assert it")
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                continue
        waiting += ast.iter_child_nodes(part)
