"""What a test in the judge passes to its program, on its way: plain values, the program's own objects, and
functions. Standard library only, and of this room what is."""

from __future__ import annotations

import array
import builtins
import datetime
import decimal
import fractions
import itertools
import types
from collections.abc import Iterator
from typing import Any

from sandbox_service.decode import Opaque
from sandbox_service.inside.mirrors import TAGS, base_of, items
from sandbox_service.rpc_remote import Link, NotCarried, Own, Untold

_ITEMS_MAX = 100_000
_DEPTH_MAX = 60
LIBRARY = ("builtins", "collections", "collections.abc", "datetime", "decimal", "fractions", "numbers")
KINDS = {one: name for name, one in vars(types).items() if isinstance(one, type)}


# They cross by value, and nobody knows whether two that are equal are one object.
COPIED = (
    str, int, float, complex, bytes, tuple, frozenset, range, decimal.Decimal, fractions.Fraction,
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
)  # fmt: skip
_CONTAINERS: dict[type, str] = {tuple: "t", frozenset: "F"}
_VIEWS: dict[Any, str] = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
# A test has them without making them: they are, or come of, what the program gave it.
_GIVEN = (Opaque, datetime.tzinfo, types.NotImplementedType)


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
    if issubclass(kind, Own):
        return "h", link.number(value)
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
    if isinstance(value, BaseException) and kind.__module__ != "test":
        own = value.__dict__.get("__own__")
        if own is not None:
            return "h", link.number(own)
        return "exc", (kind.__name__, [pack(one, link, depth + 1) for one in value.args])
    if isinstance(value, _GIVEN) and kind.__module__ != "test":
        raise Untold(f"an object of the type `{kind.__name__}` is passed back to the program")
    raise NotCarried(f"an object of the test's class `{kind.__name__}` is passed to the program")


def _function(value: Any, link: Link) -> Any:
    """A class or function of the standard library goes by its name, one of the test's by a number."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if isinstance(value, type | types.BuiltinFunctionType) and isinstance(module, str):
        if module == "builtins" and getattr(builtins, name, None) is value:
            return "py", ("builtins", name)
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType):
            return "py", (value.__self__.__name__, name)
    if isinstance(value, type):
        if module == "program" and issubclass(value, BaseException):
            return "n", name
        if module in LIBRARY and module != "builtins":
            return "py", (module, name)
        if value in KINDS:
            return "py", ("types", KINDS[value])
        if (
            module == "builtins" or value is Opaque or issubclass(value, Own)
        ):  # the type of something it was given
            raise Untold(f"the type `{name}` is passed back to the program")
        raise NotCarried(f"the test's class `{name}` is passed to the program")
    return "cb", (link.callback(value), str(getattr(value, "__name__", type(value).__name__)))


def content(number: int, value: Any, link: Link, depth: int = 0) -> Any:
    """Write a mutable value with what it holds; after that the program knows it by its number."""
    base = base_of(value)
    if base is bytearray:
        parts: Any = bytes(bytearray.__getitem__(value, slice(None)))
    elif issubclass(base, dict):
        parts = [(pack(key, link, depth + 1), pack(one, link, depth + 1)) for key, one in items(value)]
    else:
        parts = [pack(one, link, depth + 1) for one in items(value)]
    link.mirrors.told(number)
    return "m", (number, TAGS[id(base)], parts)
