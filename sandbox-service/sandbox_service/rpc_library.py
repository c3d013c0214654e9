"""What a test in the judge finds there besides the standard library: `pytest` as far as it judges values, and
the running of what a text only defines. Standard library only."""

from __future__ import annotations

import builtins
import datetime
import math
import re
import types
import unittest
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

from sandbox_service.rpc_kept import plain
from sandbox_service.rpc_values import COPIED

_NUMBERS = (int, float, bool, complex, Decimal, Fraction)
_ORDERED = (list, tuple, deque, range)
_KEYS: tuple[type, ...] = (type({}.keys()), type({}.items()))
_TIMES = (datetime.datetime, datetime.timedelta)


class Failed(BaseException):
    """What `pytest.fail` raises: no `except Exception` of a test catches it."""


class Raises:
    """`pytest.raises` as far as a test of a value needs it."""

    def __init__(self, expected: Any, match: str | None = None) -> None:
        self.expected, self.pattern = expected, match
        self.value: BaseException | None = None
        self.type: type[BaseException] | None = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            raise AssertionError(f"DID NOT RAISE {self.expected!r}")
        self.value, self.type = error, kind
        if self.pattern is not None and isinstance(error, self.expected):
            self.match(self.pattern)
        return isinstance(error, self.expected)

    def match(self, pattern: str) -> bool:
        """Fail unless the text of what was raised has the pattern."""
        if not re.search(pattern, str(self.value)):
            raise AssertionError(f"{self.value} does not match {pattern!r}")
        return True


class Approx:
    """`pytest.approx` by pytest's rules. A program's object is near nothing."""

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> None:
        if isinstance(expected, set | frozenset):
            raise TypeError(f"approx() only supports ordered sequences, not {expected!r}")
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, other: Any) -> bool:
        other = plain(other)
        if type(self.expected) is dict:
            return (
                type(other) is dict
                and other.keys() == self.expected.keys()
                and all(self._near(one, other[key]) for key, one in self.expected.items())
            )
        if type(self.expected) in _ORDERED:
            return (
                type(other) in _ORDERED
                and len(other) == len(self.expected)
                and all(map(self._near, self.expected, other))
            )
        try:
            return self._is_near(other)
        except (TypeError, ArithmeticError):  # a Decimal and a float, or an int too long for one
            return False

    def _near(self, expected: Any, got: Any) -> bool:
        return bool(Approx(expected, self.rel, self.abs, self.nan_ok) == got)

    def _is_near(self, other: Any) -> bool:
        expected, distance = self.expected, builtins.abs
        if type(expected) is bool:
            return other is expected
        if type(other) is type(expected) and type(other) in _TIMES:
            return bool(other == expected or distance(other - expected) <= self.abs)
        if type(expected) not in _NUMBERS or type(other) not in _NUMBERS:
            return bool(expected == other)
        if expected == other:
            return True
        if math.isnan(distance(expected)):
            return bool(self.nan_ok) and math.isnan(distance(other))
        return not math.isinf(distance(expected)) and bool(distance(expected - other) <= self._tolerance())

    def _tolerance(self) -> Any:
        """Return the larger of the two tolerances; `abs` alone switches the relative one off."""
        number: Callable[[Any], Any] = Decimal if type(self.expected) is Decimal else lambda given: given
        least = number(1e-12 if self.abs is None else self.abs)
        part = number(1e-6 if self.rel is None else self.rel)
        if not least >= 0 or not part >= 0:
            raise ValueError(f"a tolerance of approx is negative or no number: {self.abs}, {self.rel}")
        if self.rel is None and self.abs is not None:
            return least
        return max(least, part * builtins.abs(self.expected))

    def __bool__(self) -> bool:
        raise AssertionError("approx() is compared with nothing: write `assert f(...) == approx(...)`")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"


def _raises(expected: Any, *call: Any, match: str | None = None, **named: Any) -> Any:
    if not call:
        return Raises(expected, match)
    with Raises(expected, match) as raised:
        call[0](*call[1:], **named)
    return raised


def _fail(reason: str = "", pytrace: bool = True) -> NoReturn:
    raise Failed(reason)


class Case(tuple[Any, ...]):
    """The values of one `pytest.param`."""


def _param(*values: Any, id: str | None = None) -> Case:
    return Case(values)


def _parametrize(argnames: Any, argvalues: Any, ids: Any = None) -> Callable[[Any], Any]:
    """Remember on a test function what it is to be called with; several of these multiply."""
    alone = False
    words = argnames
    if isinstance(argnames, str):
        words = [one.strip() for one in argnames.split(",") if one.strip()]
        alone = len(words) == 1
    rows = [row if isinstance(row, Case) or not alone else (row,) for row in argvalues]
    given = [dict(zip(words, row, strict=True)) for row in rows]

    def mark(function: Any) -> Any:
        function.rows = [{**one, **row} for one in given for row in getattr(function, "rows", [{}])]
        return function

    return mark


PYTEST = types.SimpleNamespace(
    raises=_raises, approx=Approx, fail=_fail, param=_param,
    mark=types.SimpleNamespace(parametrize=_parametrize),
)  # fmt: skip


def run_collected(space: dict[str, Any], names: Sequence[str]) -> None:
    """Run those of these test functions and test classes that a text came to define.

    raises  AssertionError too where there was nothing to run
    """
    ran = 0
    for value in [space[name] for name in names if name in space]:
        if type(value) is types.FunctionType:  # an object of the program's may say that it is one
            ran += _called(value, value)
        elif issubclass(type(value), type) and issubclass(value, unittest.TestCase):
            result = _Result()
            unittest.defaultTestLoader.loadTestsFromTestCase(value).run(result)
            ran += result.testsRun - len(result.skipped) - len(result.expectedFailures)
        elif issubclass(type(value), type):
            ran += sum(_method(value, name) for name in _tests_of(value))
    if not ran:
        raise AssertionError("the test tests nothing: nothing of what it defines was run")


def _tests_of(kind: type) -> list[str]:
    found = [name for one in reversed(kind.__mro__) for name in vars(one) if name.startswith("test")]
    return list(dict.fromkeys(found))


def _method(kind: type, name: str) -> int:
    setup = getattr(kind, "setup_method", None)
    return _called(getattr(kind, name), lambda **given: _on_fresh(kind, name, setup, given))


def _on_fresh(kind: type, name: str, setup: Any, given: dict[str, Any]) -> None:
    one = kind()
    method = getattr(one, name)
    if setup is not None:
        setup(one, method) if setup.__code__.co_argcount > 1 else setup(one)
    method(**given)


def _called(function: Any, call: Callable[..., Any]) -> int:
    """Call a test once, or with each row it is given; return how often that was."""
    rows = getattr(function, "rows", [{}])
    for row in rows:
        call(**row)
    return len(rows)


def strict() -> None:
    """Have unittest compare sets by what they hold, where it asks them of their difference, which a program's
    object answers as it likes; and not tell two equal values apart, as `rpc_rewrite` does not."""

    def of_sets(case: Any, first: Any, second: Any, msg: Any = None) -> None:
        first, second = plain(first), plain(second)
        for one in (first, second):
            if not issubclass(type(one), set | frozenset) and type(one) not in _KEYS:
                raise AssertionError(f"assertSetEqual of what is no set: {one!r}")
        compare(case, first, second, msg)

    def is_not(case: Any, first: Any, second: Any, msg: Any = None) -> None:
        if type(first) is type(second) and type(first) in COPIED and first == second:
            raise Failed("whether two equal values are one object cannot be told in the judge")
        differ(case, first, second, msg)

    compare, differ = unittest.TestCase.assertSetEqual, unittest.TestCase.assertIsNot
    for name, method in (("assertSetEqual", of_sets), ("assertIsNot", is_not)):
        setattr(unittest.TestCase, name, method)


class _Result(unittest.TestResult):
    """Lets the first failure through, as what it is."""

    def addError(self, test: Any, err: Any) -> None:
        raise err[1]

    addFailure = addError

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            raise err[1]

    def addUnexpectedSuccess(self, test: Any) -> None:
        raise AssertionError(f"{test.id().rpartition('.')[2]}: it passed, where a failure was expected")
