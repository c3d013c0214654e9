"""A strict, typed, tagged JSON for plain Python values: all that ever leaves a candidate's process.

`encode` runs beside the candidate, which may sabotage it: that only changes the candidate's own answers.
`sandbox_service.decode` is the other half, which trusts nothing. Standard library only, none of our modules.

A subclass falls to its builtin base (defaultdict to dict, a namedtuple to tuple, IntEnum to int) by the
base's own methods, so its overrides are never asked; OrderedDict and Counter, which compare and answer in
ways of their own, stay what they are. Builtin iterators (generators, map, zip ...) are read once,
here, and decode to a fresh iterator, which as in Python equals nothing; dict views decode to dict views.
Every other object is opaque: it equals nothing, and has only the truth value (0, 1, null) it claims.

    None ["N"]   True ["B",1]   42 ["i","0x2a"]   3.0 ["f","0x1.8000000000000p+1"]   "a" ["s","a"]
    lone surrogates ["u",base64]   b"a" ["b",base64]   bytearray ["ba",base64]   1j ["c",re,im]   ... ["E"]
    list ["l",[..]]  tuple ["t",[..]]  set ["S",[..]]  frozenset ["F",[..]]  dict ["d",[[k,v],..]]
    OrderedDict ["od",[[k,v],..]]   Counter ["ct",[[k,v],..]]
    range ["r",start,stop,step]   deque ["dq",[..]]   iterator ["it",[..]]   views ["dk"|"dv"|"di",[..]]
    Decimal ["dec",text]  Fraction ["frac",n,d]  datetime, date, time ["dt"|"date"|"time",iso]
    timedelta ["td",days,seconds,microseconds]   anything else ["x","module.Type",truth]
    or, where the program keeps what it is asked about later, ["h","module.Type",number]
"""

from __future__ import annotations

import base64
import itertools
import re
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 60
MAX_NODES = 100_000
MAX_HEX_DIGITS = 50_000
MAX_NAME = 200


class _Over(Exception):
    """A budget is spent."""


_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_name: Callable[[type], str] = type.__dict__["__name__"].__get__


def _generator() -> Any:
    yield


# They give iterators that share what they read from; or they never end, and reading them is no value.
_ENDLESS = ("count", "cycle", "repeat", "groupby", "_grouper", "_tee", "tee")
_ITERATORS: set[int] = set(
    map(id, (
        map, filter, zip, enumerate, reversed, type(_generator()), type(iter([])), type(reversed([])),
        type(iter(())), type(iter("é")), type(iter("a")), type(iter(b"")), type(iter(set())), type(iter({})),
        type(iter({}.items())), type(iter({}.values())), type(iter(range(0))), type(iter(range(1 << 70))),
    ))
)  # fmt: skip
_ITERATORS |= {
    id(kind) for name, kind in vars(itertools).items() if isinstance(kind, type) and name not in _ENDLESS
}
_KEYS: type = type({}.keys())
_VALUES: type = type({}.values())
_ITEMS: type = type({}.items())
_BASES: set[int] = {
    id(kind)
    for kind in (int, float, str, bytes, bytearray, complex, list, tuple, dict, set, frozenset, deque)
}


def base_of(kind: type) -> type | None:
    """Return the builtin type of values that a class is, or derives from."""
    for base in _mro(kind):
        if id(base) in _BASES:
            return base
    return None


def encode(value: object, keep: Callable[[Any], int] | None = None, writer: Writer | None = None) -> bytes:
    """Write any object as tagged JSON. Never raises: what cannot be carried is opaque, whole or in part.

    keep     keeps an object that is not carried and returns its number, by which it can be asked later;
             builtin iterators are kept too then, unread
    writer   writes it instead of one that is made with `keep`
    returns  at most MAX_BYTES bytes; a value over a budget becomes one opaque
    """
    try:
        data = (writer or Writer(keep)).text_of(value, 0).encode("ascii")
        if len(data) <= MAX_BYTES:
            return data
        why = "bytes"
    except _Over as over:
        why = str(over)
    except BaseException:  # noqa: BLE001 - the candidate may raise anything, anywhere; it is only its own answer
        why = "unreadable"
    try:
        return _opaque(f"{_type_name(type(value))} ({why})", None).encode("ascii")
    except BaseException:  # noqa: BLE001 - see above
        return b'["x","object",null]'


def _type_name(kind: type) -> str:
    """Return `module.Name`, cut short; what a class says of itself is text, never used."""
    name, module = _name(kind), type.__dict__["__dict__"].__get__(kind).get("__module__")
    if type(module) is str and module != "builtins":
        name = f"{module}.{name}"
    name = name[:MAX_NAME]
    return name if name.isascii() else re.sub("[\ud800-\udfff]", "?", name)


def _truth(value: Any) -> int | None:
    """Return what the object says of its truth: no more than a program that returns True could claim."""
    try:
        return 1 if value else 0
    except Exception:  # noqa: BLE001 - its own code runs here
        return None


def _opaque(name: str, truth: int | None) -> str:
    return f'["x",{_quote(name)},{"null" if truth is None else truth}]'


class Writer:
    """Budgets of one value. `text_of` writes it down without asking it anything it could override."""

    def __init__(self, keep: Callable[[Any], int] | None) -> None:
        self.nodes, self.bytes, self.keep = MAX_NODES, MAX_BYTES, keep

    def text_of(self, value: Any, depth: int) -> str:
        self.nodes -= 1
        if self.nodes < 0:
            raise _Over("nodes")
        if depth > MAX_DEPTH:
            raise _Over("depth")
        kind = type(value)
        if kind is str:
            return self.string(value)
        if kind is int:
            return f'["i","{self.hex(value)}"]'
        if kind is float:
            return f'["f","{value.hex()}"]'
        if kind is bool:
            return '["B",1]' if value else '["B",0]'
        if value is None:
            return '["N"]'
        if value is Ellipsis:
            return '["E"]'
        if kind is list:
            return self.all("l", value, depth)
        return self.rest(value, kind, depth)

    def all(self, tag: str, values: Any, depth: int) -> str:
        return f'["{tag}",[{",".join([self.text_of(value, depth + 1) for value in values])}]]'

    def pairs(self, tag: str, pairs: Any, depth: int) -> str:
        texts = [f"[{self.text_of(key, depth + 1)},{self.text_of(value, depth + 1)}]" for key, value in pairs]
        return f'["{tag}",[{",".join(texts)}]]'

    def string(self, value: str) -> str:
        self.spend(len(value))
        if value.isascii() or not re.search("[\ud800-\udfff]", value):
            return f'["s",{_quote(value)}]'
        return f'["u","{_b64(value.encode("utf-8", "surrogatepass"))}"]'

    def hex(self, value: int) -> str:
        if value.bit_length() > 4 * MAX_HEX_DIGITS:
            raise _Over("digits")
        self.spend(value.bit_length() >> 2)
        return hex(value)

    def spend(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise _Over("bytes")

    def rest(self, value: Any, kind: type, depth: int) -> str:
        if kind is range:
            return f'["r","{self.hex(value.start)}","{self.hex(value.stop)}","{self.hex(value.step)}"]'
        if kind is _KEYS:
            return self.all("dk", list(value), depth)
        if kind is _VALUES:
            return self.all("dv", list(value), depth)
        if kind is _ITEMS:
            return self.pairs("di", list(value), depth)
        if id(kind) in _ITERATORS:
            if self.keep is not None:
                return self.kept(value, kind)
            try:
                return self.all("it", value, depth)
            except _Over:
                raise
            except Exception:  # noqa: BLE001 - its own code runs here; what breaks half-way has no value
                return _opaque(_type_name(kind), None)
        extra = self.from_library(value, kind)
        if extra is not None:
            return extra
        base = base_of(kind)
        if base is not None:
            return self.base(value, kind, base, depth)
        if self.keep is not None:
            return self.kept(value, kind)
        return _opaque(_type_name(kind), _truth(value))

    def kept(self, value: Any, kind: type) -> str:
        assert self.keep is not None
        return f'["h",{_quote(_type_name(kind))},"{self.keep(value):#x}"]'

    def base(self, value: Any, kind: type, base: Any, depth: int) -> str:
        if base is int:
            return f'["i","{self.hex(int.__add__(value, 0))}"]'
        if base is float:
            return f'["f","{float.hex(value)}"]'
        if base is str:
            return self.string(str.__str__(value))
        if base is complex:
            parts = complex.__dict__["real"].__get__(value), complex.__dict__["imag"].__get__(value)
            return f'["c","{parts[0].hex()}","{parts[1].hex()}"]'
        if base is bytes or base is bytearray:
            self.spend(base.__len__(value))
            tag = "b" if base is bytes else "ba"
            return f'["{tag}","{_b64(bytes(base.__getitem__(value, slice(None))))}"]'
        if base is dict:
            tag = "od" if kind is OrderedDict else "ct" if kind is Counter else "d"
            return self.pairs(tag, list((OrderedDict if tag == "od" else dict).items(value)), depth)
        tag = {list: "l", tuple: "t", set: "S", frozenset: "F", deque: "dq"}[base]
        return self.all(tag, list(base.__iter__(value)), depth)

    def from_library(self, value: Any, kind: type) -> str | None:
        """Write the few library values tests compare, if their module is loaded at all."""
        decimal, fractions, datetime = map(sys.modules.get, ("decimal", "fractions", "datetime"))
        if decimal is not None and kind is decimal.Decimal:
            text = kind.__str__(value)
            self.spend(len(text))
            return f'["dec",{_quote(text)}]'
        if fractions is not None and kind is fractions.Fraction:
            return f'["frac","{self.hex(value.numerator)}","{self.hex(value.denominator)}"]'
        if datetime is None:
            return None
        if kind is datetime.timedelta:
            return f'["td","{hex(value.days)}","{hex(value.seconds)}","{hex(value.microseconds)}"]'
        for tag, owner in (("dt", datetime.datetime), ("date", datetime.date), ("time", datetime.time)):
            if kind is owner:
                # without `fold`, which equality of such values does not see
                return f'["{tag}",{_quote(value.isoformat())}]'
        return None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
