"""Read what `inside.codec.encode` wrote, trusting nothing.

`decode` builds exact builtin types and nothing else, never calls into what it reads, and answers CodecError
to all it does not know. No pickle, no marshal, no literal_eval.

Not covered: a set or a dict of colliding keys makes `decode` slow. Use it on hostile bytes only in a process
with a CPU limit. `parse` hashes nothing and is safe anywhere. Imports the standard library and the codec.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, NoReturn

from sandbox_service.inside.codec import MAX_BYTES, MAX_DEPTH, MAX_HEX_DIGITS, MAX_NAME, MAX_NODES


class CodecError(ValueError):
    """The bytes are not a value in this codec, or are over one of its budgets."""


class Opaque:
    """An object the codec does not carry. It equals nothing; its truth is what it claimed, if it did."""

    __slots__ = ("name", "truth")

    def __init__(self, name: str, truth: bool | None = None) -> None:
        self.name, self.truth = name, truth

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        if self.truth is None:
            raise TypeError(f"{self!r} has no truth value here")
        return self.truth

    def __repr__(self) -> str:
        return f"<object of type {self.name}>"


_INT = re.compile(r"-?0x(0|[1-9a-f][0-9a-f]*)\Z")
_FLOAT = re.compile(r"(-?0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}|nan|-?inf)\Z")
_DECIMAL = re.compile(r"-?([0-9]{1,10000}(\.[0-9]{1,10000})?(E[+-][0-9]{1,9})?|s?NaN[0-9]{0,50}|Infinity)\Z")
_ANY = re.compile(r"[^\ud800-\udfff]*\Z")  # a lone surrogate cannot be written in a reply
_ISO = re.compile(r"[0-9:.+T-]{5,40}\Z")


_TABLES: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "d": lambda table: table,
    "di": dict.items,
    "od": OrderedDict,
    "ct": Counter,
}


def _refuse(*_: object) -> NoReturn:
    raise CodecError("JSON objects, floats and constants are not part of the codec")


def _small(text: str) -> int:
    if len(text) > 1:
        raise CodecError("a JSON number longer than one digit")
    return int(text)


_JSON = json.JSONDecoder(
    object_pairs_hook=_refuse, parse_float=_refuse, parse_constant=_refuse, parse_int=_small
)


def parse(data: bytes) -> object:
    """Read the bytes as nested lists, without making values of them. Hashes nothing.

    raises  CodecError
    """
    if len(data) > MAX_BYTES:
        raise CodecError(f"{len(data)} bytes, more than {MAX_BYTES}")
    try:
        return _JSON.decode(data.decode("ascii"))
    except CodecError:
        raise
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not the codec's JSON: {type(error).__name__}") from None


def decode(data: bytes, reader: Reader | None = None) -> Any:
    """Read one value: exact builtin types, `Opaque`, or a Decimal, Fraction or datetime.

    reader  reads it, and with it what a reader alone refuses
    raises  CodecError for anything `encode` would not write, and for duplicate or unhashable members
    """
    try:
        return (reader or Reader()).value(parse(data), 0)
    except CodecError:
        raise
    except (ValueError, TypeError, OverflowError, IndexError, ArithmeticError) as error:
        raise CodecError(f"not a value: {type(error).__name__}") from None


class Reader:
    """Budgets of one decoding."""

    def __init__(self) -> None:
        self.nodes = MAX_NODES

    def value(self, tree: Any, depth: int) -> Any:
        self.nodes -= 1
        if self.nodes < 0 or depth > MAX_DEPTH:
            raise CodecError("over the budget of nodes or depth")
        if type(tree) is not list or not tree or type(tree[0]) is not str:
            raise CodecError("a value is a list that begins with its tag")
        tag, rest = tree[0], tree[1:]
        if len(rest) == 1:
            return self.single(tag, rest[0], depth)
        match tag, rest:
            case "N", []:
                return None
            case "E", []:
                return ...
            case "x", [name, (0 | 1 | None) as truth]:
                return Opaque(type_name(name), None if truth is None else truth == 1)
            case "c", [real, imaginary]:
                return complex(_float(real), _float(imaginary))
            case "r", [start, stop, step]:
                return range(_int(start), _int(stop), _int(step))
            case "frac", [above, below]:
                from fractions import Fraction

                return Fraction(_int(above), _int(below))
            case "td", [days, seconds, microseconds]:
                from datetime import timedelta

                return timedelta(_int(days), _int(seconds), _int(microseconds))
        raise CodecError("an unknown tag, or a tag with the wrong number of parts")

    def single(self, tag: str, body: Any, depth: int) -> Any:
        match tag:
            case "i":
                return _int(body)
            case "s":
                return _text(body)
            case "f":
                return _float(body)
            case "B" if type(body) is int and body in (0, 1):
                return body == 1
            case "l" | "t" | "S" | "F" | "it" | "dk" | "dv" | "dq":
                return self.container(tag, [self.value(item, depth + 1) for item in _list(body)])
            case "d" | "di" | "od" | "ct":
                return _TABLES[tag](self.table(body, depth))
            case "u":
                return _bytes(body).decode("utf-8", "surrogatepass")
            case "b" | "ba":
                return _bytes(body) if tag == "b" else bytearray(_bytes(body))
            case "dec" | "dt" | "date" | "time":
                return _library(tag, body)
        raise CodecError("an unknown tag, or a tag with the wrong kind of body")

    def container(self, tag: str, items: list[Any]) -> Any:
        match tag:
            case "l":
                return items
            case "t":
                return tuple(items)
            case "it":
                return iter(items)
            case "dv":
                return dict(enumerate(items)).values()
            case "dq":
                return deque(items)
        distinct: Any = dict.fromkeys(items).keys() if tag == "dk" else set(items)
        if len(distinct) != len(items):
            raise CodecError("duplicate members")
        return frozenset(distinct) if tag == "F" else distinct

    def table(self, body: Any, depth: int) -> dict[Any, Any]:
        table = {}
        for pair in _list(body):
            key, value = _list(pair)
            table[self.value(key, depth + 1)] = self.value(value, depth + 1)
        if len(table) != len(body):
            raise CodecError("duplicate keys")
        return table


def type_name(body: Any) -> str:
    """Read what a class says of itself."""
    return _matching(_ANY, body, MAX_NAME + 20)


def number(body: Any) -> int:
    """Read an int that stands without its tag."""
    return _int(body)


def _list(body: Any) -> list[Any]:
    if type(body) is not list:
        raise CodecError("a list is missing")
    return body


def _matching(pattern: re.Pattern[str], body: Any, longest: int) -> str:
    if type(body) is not str or len(body) > longest or not pattern.match(body):
        raise CodecError("a malformed text")
    return body


def _int(body: Any) -> int:
    return int(_matching(_INT, body, MAX_HEX_DIGITS + 3), 16)


def _float(body: Any) -> float:
    return float.fromhex(_matching(_FLOAT, body, 40))


def _text(body: Any) -> str:
    if type(body) is not str:
        raise CodecError("a text is missing")
    if not body.isascii():
        body.encode("utf-8")  # a lone surrogate raises: it has a tag of its own, so that a value has one form
    return body


def _bytes(body: Any) -> bytes:
    if type(body) is not str:
        raise CodecError("base64 is missing")
    return base64.b64decode(body, validate=True)


def _library(tag: str, body: Any) -> Any:
    if tag == "dec":
        from decimal import Decimal

        return Decimal(_matching(_DECIMAL, body, 20_100))
    import datetime

    owner: Any = {"dt": datetime.datetime, "date": datetime.date, "time": datetime.time}[tag]
    return owner.fromisoformat(_matching(_ISO, body, 40))
