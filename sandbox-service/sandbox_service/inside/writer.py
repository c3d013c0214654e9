"""Write values for a test that runs in the judge, which has more of them than who only compares them.

Beside what `codec` writes:

    an object that stays here ["h","module.Type",number]
    a mutable value ["m",number,value], and ["m",number] where the other side has it: see `mirrors`
    an object of a class that derives from a builtin ["k","module.Type",number,its class's number,names,value]
    a class that the other side has ["py",module,name]   a function of the test's ["cb",number]

Standard library only.
"""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from sandbox_service.inside import codec
from sandbox_service.inside.mirrors import TAGS, Mirrors, base_of

_MUTABLE = (list, dict, set, bytearray, deque)
_PLAIN = {id(kind) for kind in (str, int, float, bool, type(None), tuple, bytes, complex, frozenset, range)}
_LIBRARY = ("builtins", "collections", "datetime", "decimal", "fractions")


class Callback:
    """A function of the test, called by the program: the test runs it, and answers."""

    def __init__(self, call: Callable[[int, Any, Any], Any], number: int, name: str) -> None:
        self._call, self._number = call, number
        self.__name__ = self.__qualname__ = name

    def end(self) -> None:
        """Its test is over: it is a function that only raises, and none of the next test's."""
        self._number = -1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._number < 0:
            raise RuntimeError(f"{self.__name__} is a function of a test that is over")
        return self._call(self._number, args, kwargs)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)


class Writer(codec.Writer):
    """Writes the mutable values in a value by their numbers, and with what they hold where that is new.

    told     ids of the classes and objects, all of them kept, that the other side was told of
    changed  the value is itself one that the other side has, and has changed
    """

    def __init__(self, keep: Callable[[Any], int], mirrors: Mirrors, told: set[int], changed: bool) -> None:
        super().__init__(keep)
        self.mirrors, self.told, self.changed = mirrors, told, changed
        self.new, self.told_now = list[int](), list[int]()

    def text_of(self, value: Any, depth: int) -> str:
        kind = type(value)
        if id(kind) in TAGS:
            return self.mutable(value, depth)
        if id(kind) in _PLAIN:
            return super().text_of(value, depth)
        if isinstance(value, type) and (module := _library(value)):
            return f'["py",{self.string(module)},{self.string(value.__name__)}]'
        if kind is Callback and value._number >= 0:
            return f'["cb","{value._number:#x}"]'
        base = codec.base_of(kind)
        if base is None:
            return super().text_of(value, depth)
        return self.derived(value, kind, base, depth)

    def derived(self, value: Any, kind: type, base: type, depth: int) -> str:
        """Write an object of a class that derives from a builtin: it is kept, and told as what it is built
        on. Of its class is told, the first time, what it has besides.
        """
        assert self.keep is not None
        if issubclass(base, _MUTABLE):
            if self.mirrors.number(value) is not None:
                return self.mutable(value, depth)
        elif id(value) in self.told:
            return self.kept(value, kind)
        names: Any = ()
        for one in (kind, value):
            if id(one) not in self.told:
                self.told.add(id(one))
                self.told_now.append(id(one))
                names = _own_names(kind, base) if one is kind else names
        content = (
            self.mutable(value, depth) if issubclass(base, _MUTABLE) else self.base(value, kind, base, depth)
        )
        head = self.kept(value, kind)[len('["h",') : -1]
        return f'["k",{head},"{self.keep(kind):#x}",{super().text_of(names, depth)},{content}]'

    def mutable(self, value: Any, depth: int) -> str:
        number = self.mirrors.number(value)
        if number is None:
            number = self.mirrors.new(value)
            self.new.append(number)
        elif depth or not self.changed:
            return f'["m","{number:#x}"]'
        return f'["m","{number:#x}",{self.rest_of(value, depth)}]'

    def rest_of(self, value: Any, depth: int) -> str:
        if id(type(value)) in TAGS:
            return super().text_of(value, depth)
        return self.base(value, type(value), base_of(value), depth)


def _library(kind: type) -> str:
    """Return the module of a class that a test has too; empty for others."""
    module = type.__dict__["__module__"].__get__(kind)
    if module in _LIBRARY and getattr(sys.modules.get(module), kind.__name__, None) is kind:
        return str(module)
    return ""


def _own_names(kind: type, base: type) -> tuple[str, ...]:
    """Return what a class has, itself or by others, before the builtin that it derives from is asked."""
    names: dict[str, None] = {}
    for one in kind.__mro__[: kind.__mro__.index(base)]:
        names.update(dict.fromkeys(vars(one)))
    return tuple(names)
