"""What a test in the judge finds there besides the standard library: `pytest` as far as it judges values, and
the running of what a text only defines. Standard library only."""

from __future__ import annotations

import builtins
import re
import types
import unittest
from typing import Any, NoReturn


class Raises:
    """`pytest.raises` as far as a test of a value needs it."""

    def __init__(self, expected: Any, match: str | None = None) -> None:
        self.expected, self.match = expected, match
        self.value: BaseException | None = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            raise AssertionError(f"DID NOT RAISE {self.expected!r}")
        self.value = error
        if self.match is not None and isinstance(error, self.expected):
            assert re.search(self.match, str(error)), f"{error} does not match {self.match!r}"
        return isinstance(error, self.expected)


class Approx:
    """`pytest.approx` for numbers and sequences of them. A program's object is near nothing."""

    def __init__(self, expected: Any, rel: float = 1e-6, abs: float = 1e-12) -> None:
        self.expected, self.rel, self.abs = expected, rel, abs

    def __eq__(self, other: Any) -> bool:
        if isinstance(self.expected, list | tuple):
            if type(other) is not type(self.expected) or len(other) != len(self.expected):
                return False
            pairs = zip(self.expected, other, strict=True)
            return all(Approx(one, self.rel, self.abs) == got for one, got in pairs)
        if type(other) not in (int, float, bool):
            return False
        near = max(self.rel * builtins.abs(self.expected), self.abs)
        return bool(other == self.expected or builtins.abs(other - self.expected) <= near)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"


def _raises(expected: Any, *call: Any, match: str | None = None) -> Any:
    if not call:
        return Raises(expected, match)
    with Raises(expected, match):
        call[0](*call[1:])
    return None


PYTEST = types.SimpleNamespace(raises=_raises, approx=Approx, fail=lambda text="": _fail(text))


def _fail(text: str) -> NoReturn:
    raise AssertionError(text)


def run_collected(space: dict[str, Any]) -> None:
    """Run the test functions and test classes a text defines, in their order."""
    for name, value in list(space.items()):
        if isinstance(value, types.FunctionType) and name.startswith("test"):
            value()
        elif isinstance(value, type) and issubclass(value, unittest.TestCase):
            _case(value)
        elif isinstance(value, type) and name.startswith("Test") and value.__module__ == "test":
            for method in [one for one in vars(value) if one.startswith("test")]:
                getattr(value(), method)()


def _case(kind: type[unittest.TestCase]) -> None:
    result = unittest.TestResult()
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(kind)
    suite.run(result)
    for case, text in (*result.failures, *result.errors):
        raise AssertionError(f"{case.id().rpartition('.')[2]}: {text.strip().splitlines()[-1]}")
    if result.unexpectedSuccesses or not result.testsRun:
        raise AssertionError(f"{kind.__name__}: nothing was tested")
