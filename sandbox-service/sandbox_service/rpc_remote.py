"""The program's objects as a test in the judge sees them.

A `Remote` stands for an object that stays with the program. What is done to it is asked of the program, and
what comes back is a value or another `Remote`. But a program never decides a comparison with a plain value:
a `Remote` equals none, is in no order with any and is not computed with: `f(x) - 4` would show the program
what is expected, and let it answer 0. Before it is held to equal no value, it is asked whether it equals
`...`: a comparison that breaks over a stranger breaks here, and what equals everything is no pass for `!=`.
Between two of its own objects it decides: the test leaves that to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from sandbox_service.inside.mirrors import Mirrors

_ITEMS_MAX = 100_000


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

    def untold(self, why: str) -> Untold:
        """End the test; return what to raise."""
        ...

    def callback(self, function: Callable[..., Any]) -> int:
        """Keep a function of the test; return its number."""
        ...

    def number(self, one: Any) -> int:
        """Return the number of an object of the program's."""
        ...

    def remote(self, kind: str, number: int) -> Any:
        """Return what stands for the program's object of that number: the same one each time."""
        ...


class Own:
    """An object of the program's, whatever it is here."""

    __slots__ = ()


class Remote(Own):
    """An object that is nothing here. What it says of itself, its `__doc__` too, is the program's."""

    __slots__ = ("_Remote__alone", "_Remote__kind", "_Remote__link", "_Remote__number", "__weakref__")
    __class__ = property(lambda self: self.__getattr__("__class__"))

    def __init__(self, link: Link, kind: str, number: int) -> None:
        for name, value in (("link", link), ("kind", kind), ("number", number), ("alone", set[str]())):
            object.__setattr__(self, f"_Remote__{name}", value)

    def __ask(self, op: str, *args: Any) -> Any:
        return self.__link.ask(op, None, args, {})

    def __at(self, op: str, *args: Any, **kwargs: Any) -> Any:
        return self.__link.ask(op, ("h", self.__number), args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__at("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_Remote__"):
            raise AttributeError(name)
        return self.__at("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__at("set", name, value)

    def __delattr__(self, name: str) -> None:
        self.__at("del", name)

    def __dir__(self) -> Any:
        return self.__ask("dir", self)

    def __eq__(self, other: object) -> bool:
        return self.__ask("eq", self, other) is True if isinstance(other, Own) else self.__apart("eq", True)

    def __ne__(self, other: object) -> bool:
        return (
            self.__ask("ne", self, other) is True if isinstance(other, Own) else not self.__apart("ne", False)
        )

    def __apart(self, op: str, alike: bool) -> bool:
        """Return False, once it has not said that it is like a value it cannot know."""
        if op not in self.__alone and self.__ask(op, self, ...) is alike:
            raise self.__link.untold("an object of the program equals everything")
        self.__alone.add(op)
        return False

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

    def __format__(self, spec: str) -> str:
        return self.__text("format", spec)

    def __text(self, op: str, *more: Any) -> str:
        text = self.__ask(op, self, *more)
        return str(text) if isinstance(text, str) else f"<object of type {self.__kind}>"

    def __instancecheck__(self, one: object) -> bool:
        own = isinstance(one, Own) or (isinstance(one, BaseException) and "__own__" in one.__dict__)
        return own and self.__ask("isinstance", one, self) is True

    def __subclasscheck__(self, one: object) -> bool:
        return self.__ask("issubclass", one, self) is True

    def __iter__(self) -> Iterator[Any]:
        iterator = self.__ask("iter", self)
        return iterator if type(iterator) is Remote else iter(iterator)

    def __next__(self) -> Any:
        return self.__ask("next", self)

    def __reversed__(self) -> Any:
        return self.__ask("reversed", self)

    def __contains__(self, item: object) -> bool:
        return any(one is item or one == item for one in itertools.islice(self, _ITEMS_MAX))

    def __len__(self) -> int:
        length = self.__ask("len", self)
        return length if type(length) is int else 0

    def __copy__(self) -> Any:
        return self.__link.ask("call", ("py", ("copy", "copy")), (self,), {})

    def __deepcopy__(self, memo: Any) -> Any:
        return self.__link.ask("call", ("py", ("copy", "deepcopy")), (self,), {})

    def __enter__(self) -> Any:
        return self.__at("method", "__enter__")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        """Have the program leave; it suppresses what it may, but no failure of the test's own."""
        if error is None:
            self.__at("method", "__exit__", None, None, None)
            return False
        if not isinstance(error, Exception):  # `pytest.fail` is none
            return False
        return self.__at("exit", error) is True and not isinstance(error, AssertionError)

    def __untold(self, other: object, what: str) -> Untold:
        link: Link = self.__link
        return link.untold(f"an object of the program is {what} a value, {type(other).__name__}")


def _ordered(name: str) -> Callable[[Remote, object], bool]:
    def compare(self: Remote, other: object) -> bool:
        if not isinstance(other, Own):
            raise self._Remote__untold(other, "put in order with")
        return self._Remote__ask(name, self, other) is True

    return compare


def _computed(name: str) -> Callable[..., Any]:
    def compute(self: Remote, *others: Any) -> Any:
        return self._Remote__ask(name, self, *others)

    return compute


def _between(name: str) -> Callable[[Remote, object], Any]:
    def compute(self: Remote, other: object) -> Any:
        if not isinstance(other, Own):
            raise self._Remote__untold(other, "computed with")
        return self._Remote__ask(name, self, other)

    return compute


_UNARY = ("neg", "pos", "invert", "abs", "round", "int", "float", "complex", "bytes", "index")
# each by the name of its method, and of the function that does it
BINARY = {
    **{
        name: name
        for name in (
            "add",
            "sub",
            "mul",
            "truediv",
            "floordiv",
            "mod",
            "pow",
            "matmul",
            "xor",
            "lshift",
            "rshift",
        )
    },
    "and": "and_",
    "or": "or_",
    "divmod": "divmod",
}
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _ordered(_name))
for _name in (*_UNARY, "getitem", "setitem", "delitem"):
    setattr(Remote, f"__{_name}__", _computed(_name))
for _name, _operator in BINARY.items():
    setattr(Remote, f"__{_name}__", _between(_operator))
    setattr(Remote, f"__r{_name}__", _between(_operator))
    if _name != "divmod":
        setattr(Remote, f"__i{_name}__", _between(f"i{_name}"))
Remote.__doc__ = property(lambda self: self.__getattr__("__doc__"))  # type: ignore[assignment]
