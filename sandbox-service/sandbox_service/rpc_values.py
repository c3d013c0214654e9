"""The program's objects as a test in the judge sees them, and plain values on their way to the program.

A `Remote` stands for an object that stays with the program. What is done to it is asked of the program, and
what comes back is a value or another `Remote`. But a program never decides a comparison with a plain value:
a `Remote` equals none, is in no order with any and is not computed with: `f(x) - 4` would show the program
what is expected, and let it answer 0. Between two of its own objects it decides: the test leaves that to it.
"""

from __future__ import annotations

import array
import builtins
import datetime
import decimal
import fractions
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from sandbox_service.decode import Opaque
from sandbox_service.inside.mirrors import TAGS, Mirrors

_ITEMS_MAX = 100_000
_DEPTH_MAX = 60


_CONTAINERS: dict[type, str] = {tuple: "t", frozenset: "F"}
_VIEWS: dict[Any, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
# A test has them without making them: they are, or come of, what the program gave it.
_GIVEN = (Opaque, BaseException, datetime.tzinfo, types.NotImplementedType)


class NotCarried(BaseException):
    """The test passes something of its own to the program that cannot cross: its fault, so no verdict."""


class Untold(BaseException):
    """What a test means cannot be kept here, and the program may be the cause: it fails, however it goes on,
    and no other job has less of a verdict."""


class Link(Protocol):
    """The way to the program. `mirrors` are the mutable values that it has too."""

    mirrors: Mirrors

    def ask(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have the program do something; return a value or a Remote, or raise what the program raised."""
        ...

    def callback(self, function: Callable[..., Any]) -> int:
        """Keep a function of the test; return its number."""
        ...


def pack(value: Any, link: Link, depth: int = 0) -> Any:
    """Write a value for `marshal`: plain ones as they are, the rest as `(tag, body)`.

    raises  NotCarried for objects that only the test can have made; Untold for what cannot cross either, but
            may be the program's doing
    """
    kind = type(value)
    if value is None or value is ... or kind in (bool, int, float, complex, str, bytes):
        return value
    if depth > _DEPTH_MAX:
        raise Untold("a value nested too deep to be passed to the program")

    def all_of(values: Any) -> list[Any]:
        return [pack(one, link, depth + 1) for one in values]

    if id(kind) in TAGS:
        number = link.mirrors.number(value)
        if number is not None:
            return "m", (number, "", None)
        return content(link.mirrors.new(value), value, link, depth)
    tag = _CONTAINERS.get(kind)
    if tag is not None:
        return tag, all_of(value)
    if kind is range:
        return "r", (value.start, value.stop, value.step)
    if kind is Remote:
        return "h", value._Remote__number
    if kind in (decimal.Decimal, fractions.Fraction):
        return "new", (("py", (kind.__module__, kind.__name__)), [str(value)])
    if kind in (datetime.date, datetime.datetime, datetime.time):
        return "new", (("py", ("datetime", f"{kind.__name__}.fromisoformat")), [value.isoformat()])
    if kind is datetime.timedelta:
        return "new", (("py", ("datetime", "timedelta")), [value.days, value.seconds, value.microseconds])
    if kind is array.array:
        return "new", (("py", ("array", "array")), [value.typecode, ("t", value.tolist())])
    if isinstance(value, Iterator):
        items = list(itertools.islice(value, _ITEMS_MAX + 1))
        if len(items) > _ITEMS_MAX:
            raise Untold(f"an iterator of more than {_ITEMS_MAX} items is passed to the program")
        return "it", all_of(items)
    for view, method in _VIEWS.items():
        if isinstance(value, view):
            table = pack(dict(value.mapping), link, depth)
            return "new", (("py", ("builtins", f"dict.{method}")), [table])
    if callable(value):
        return _function(value, link)
    if isinstance(value, _GIVEN) and kind.__module__ != "test":
        raise Untold(f"an object of the type `{kind.__name__}` is passed back to the program")
    raise NotCarried(f"an object of the test's class `{kind.__name__}` is passed to the program")


def _function(value: Any, link: Link) -> Any:
    """A class or function of the standard library goes by its name, one of the test's by a number."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if isinstance(value, type | types.BuiltinFunctionType) and isinstance(module, str):
        if module == "builtins" and hasattr(builtins, name):
            return "py", ("builtins", name)
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType):
            return "py", (value.__self__.__name__, name)
    if isinstance(value, type):
        if module in ("collections", "decimal", "fractions", "datetime"):
            return "py", (module, name)
        if module == "builtins" or value in (Opaque, Remote):  # the type of something it was given
            raise Untold(f"the type `{name}` is passed back to the program")
        raise NotCarried(f"the test's class `{name}` is passed to the program")
    return "cb", link.callback(value)


def content(number: int, value: Any, link: Link, depth: int = 0) -> Any:
    """Write a mutable value with what it holds; after that the program knows it by its number."""
    parts: Any = bytes(value) if isinstance(value, bytearray) else None
    if isinstance(value, dict):
        parts = [(pack(key, link, depth + 1), pack(one, link, depth + 1)) for key, one in value.items()]
    elif parts is None:
        parts = [pack(one, link, depth + 1) for one in value]
    link.mirrors.told(number)
    return "m", (number, TAGS[id(type(value))], parts)


class Remote:
    """An object of the program's."""

    def __init__(self, link: Link, kind: str, number: int) -> None:
        own = self.__dict__
        own["_Remote__link"], own["_Remote__kind"], own["_Remote__number"] = link, kind, number

    def __ask(self, op: str, *args: Any) -> Any:
        return self.__link.ask(op, None, args, {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__link.ask("call", ("h", self.__number), args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_Remote__"):
            raise AttributeError(name)
        return self.__link.ask("get", ("h", self.__number), (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        self.__link.ask("set", ("h", self.__number), (name, value), {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self.__says("eq", other)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, Remote) or self.__says("ne", other)

    def __says(self, op: str, other: Remote) -> bool:
        return self.__ask(op, self, other) is True

    def __hash__(self) -> int:
        found = self.__ask("hash", self)
        if type(found) is not int:
            raise TypeError(f"an object of the program has a hash that is a {type(found).__name__}")
        return found

    def __bool__(self) -> bool:
        return self.__ask("bool", self) is True

    def __repr__(self) -> str:
        return self.__text("repr")

    def __str__(self) -> str:
        return self.__text("str")

    def __text(self, op: str) -> str:
        text = self.__ask(op, self)
        return text if type(text) is str else f"<object of type {self.__kind}>"

    def __instancecheck__(self, one: object) -> bool:
        return isinstance(one, Remote) and self.__ask("isinstance", one, self) is True

    def __iter__(self) -> Iterator[Any]:
        iterator = self.__ask("iter", self)
        if not isinstance(iterator, Remote):
            return iter(iterator)
        return _items(iterator)

    def __next__(self) -> Any:
        return self.__ask("next", self)

    def __contains__(self, item: object) -> bool:
        return any(one is item or one == item for one in itertools.islice(self, _ITEMS_MAX))

    def __len__(self) -> int:
        length = self.__ask("len", self)
        return length if type(length) is int else 0

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.__getattr__("__exit__")(None, None, None)


def _items(iterator: Remote) -> Iterator[Any]:
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return


def _ordered(name: str) -> Callable[[Remote, object], bool]:
    def compare(self: Remote, other: object) -> bool:
        if not isinstance(other, Remote):
            raise TypeError(f"an object of the program is in no order with a {type(other).__name__}")
        return self._Remote__ask(name, self, other) is True

    return compare


def _computed(name: str) -> Callable[..., Any]:
    def compute(self: Remote, *others: Any) -> Any:
        return self._Remote__ask(name, self, *others)

    return compute


def _between(name: str) -> Callable[[Remote, object], Any]:
    def compute(self: Remote, other: object) -> Any:
        if not isinstance(other, Remote):
            raise TypeError(f"an object of the program is not computed with a {type(other).__name__}")
        return self._Remote__ask(name, self, other)

    return compute


_UNARY = ("neg", "pos", "invert", "abs", "round", "int", "float", "index")
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _ordered(_name))
for _name in (*_UNARY, "getitem", "setitem", "delitem"):
    setattr(Remote, f"__{_name}__", _computed(_name))
for _name in _BINARY:
    setattr(Remote, f"__{_name.rstrip('_')}__", _between(_name))
    setattr(Remote, f"__r{_name.rstrip('_')}__", _between(_name))
