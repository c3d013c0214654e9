"""The program's objects of classes that derive from a builtin, as a test in the judge sees them.

Such an object stays with the program and is here too, as the value it is built on: it is compared with plain
values, put in order and computed with as that value, whatever its class says. What its class has besides, or
in place of what the builtin has, is asked of the program; but of its operators only between two objects of
the program's. So a list that equals everything equals what it holds, and a test
in which it says so of an empty one fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sandbox_service.rpc_remote import BINARY, Link, Own, Remote

IMMUTABLE: tuple[type, ...] = (int, float, complex, str, bytes, tuple, frozenset)
MUTABLE: tuple[type, ...] = (list, dict, set, bytearray, deque)
_WEAK = (list, dict, bytearray)  # the others can be referred to weakly as they are
_ASKED = (
    "len", "getitem", "setitem", "delitem", "iter", "next", "reversed", "call", "missing", "bool", "repr",
    "str", "format", "int", "float", "index", "neg", "pos", "invert", "abs", "round", "hash",
)  # fmt: skip
_ORDER = ("eq", "ne", "lt", "le", "gt", "ge")


def kept_class(link: Link, name: str, base: type, names: Sequence[str]) -> type:
    """Make the class of such objects.

    name   of the program's class
    base   the builtin it derives from
    names  what it has besides, or in place of what that has
    """
    own = frozenset(names)
    space: dict[str, Any] = {}
    for one in own:
        if one.isidentifier() and not one.startswith("__"):
            space[one] = _attribute(link, one)
    for one in _ASKED:
        if f"__{one}__" in own:
            space[f"__{one}__"] = _asked(link, f"__{one}__")
    for one in _ORDER:
        space[f"__{one}__"] = _compared(link, one, base, f"__{one}__" in own)
    for one in BINARY:
        for form in (f"__{one}__", f"__r{one}__", f"__i{one}__"):
            if form in own:
                space[form] = _between(link, form)
    space.setdefault("__hash__", base.__hash__)
    space |= {
        "_Own__names": own,
        "__slots__": ("__weakref__",) if base in _WEAK else (),
        "__module__": "program",
        "__class__": property(lambda self: link.ask("get", _at(link, self), ("__class__",), {})),
        "__getattr__": lambda self, attribute: _get(link, self, attribute),
        "__setattr__": lambda self, attribute, value: link.ask(
            "set", _at(link, self), (attribute, value), {}
        ),
        "__delattr__": lambda self, attribute: link.ask("del", _at(link, self), (attribute,), {}),
        "__copy__": lambda self: link.ask("call", ("py", ("copy", "copy")), (self,), {}),
        "__deepcopy__": lambda self, memo: link.ask("call", ("py", ("copy", "deepcopy")), (self,), {}),
    }
    return type(name.rpartition(".")[2] or "object", (Own, base), space)


def plain(value: Any) -> Any:
    """Return the value that such an object is built on; others as they are."""
    if type(value) is Remote or not issubclass(type(value), Own):
        return value
    base: Any = next(one for one in (*IMMUTABLE, *MUTABLE) if issubclass(type(value), one))
    if base in (int, float, complex):
        return base.__add__(value, base(0))
    if base is str:
        return str.__str__(value)
    return base(dict.items(value)) if base is dict else base(base.__iter__(value))


def _at(link: Link, one: Any) -> tuple[str, int]:
    return "h", link.number(one)


def _get(link: Link, one: Any, name: str) -> Any:
    if name.startswith("__") and name != "__dict__":
        raise AttributeError(name)
    return link.ask("get", _at(link, one), (name,), {})


def _attribute(link: Link, name: str) -> property:
    return property(
        lambda self: link.ask("get", _at(link, self), (name,), {}),
        lambda self, value: link.ask("set", _at(link, self), (name, value), {}),
    )


def _asked(link: Link, name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return link.ask("method", _at(link, self), (name, *args), kwargs)

    return method


def _compared(link: Link, name: str, kind: type, own: bool) -> Callable[[Any, Any], Any]:
    base, alike, heard = getattr(kind, f"__{name}__"), name == "eq", set[int]()

    def hear(self: Any) -> None:
        """Have it compare itself with an empty value, which tells nothing of the other."""
        empty = kind()
        if link.ask(name, None, (self, empty), {}) is alike and base(self, empty) is not alike:
            raise link.untold("an object of the program equals everything")
        heard.add(link.number(self))

    def compare(self: Any, other: Any) -> Any:
        decides = isinstance(other, Own) and (
            own or type(other) is Remote or f"__{name}__" in type(other)._Own__names  # type: ignore[attr-defined]
        )
        if decides:
            return link.ask(name, None, (self, other), {}) is True
        if own and name in ("eq", "ne") and link.number(self) not in heard:
            hear(self)
        return base(self, other)

    return compare


def _between(link: Link, name: str) -> Callable[[Any, Any], Any]:
    def compute(self: Any, other: Any) -> Any:
        if not isinstance(other, Own):
            raise link.untold(f"an object of the program is computed with a value, {type(other).__name__}")
        return link.ask("method", _at(link, self), (name, other), {})

    return compute
