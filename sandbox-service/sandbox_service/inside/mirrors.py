"""Mutable values that a test and its program both hold, each side one of its own. Standard library only.

Each has a number that both sides know it by. With every message a side tells what became of those it changed,
so that to both it is as if there were one. A side that nobody but its own table holds one in says so, and
both forget the number: what is left is private to the other.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, deque
from operator import is_
from typing import Any

KINDS: dict[str, Any] = {
    "l": list, "d": dict, "S": set, "ba": bytearray, "dq": deque, "od": OrderedDict, "ct": Counter,
}  # fmt: skip
TAGS: dict[int, str] = {id(kind): tag for tag, kind in KINDS.items()}


class Mirrors:
    """One side's.

    held  the values, by number; `step` is 1 or -1, so that no two sides give out the same
    """

    def __init__(self, step: int) -> None:
        self.held: dict[int, Any] = {}
        self._step, self._last = step, 0
        self._numbers: dict[int, int] = {}
        self._seen: dict[int, list[Any]] = {}  # what the other side knows of each

    def number(self, value: Any) -> int | None:
        """Return the number of a value that both sides have."""
        return self._numbers.get(id(value))

    def new(self, value: Any) -> int:
        """Give a value a number. Until `told` it is not looked at."""
        self._last += self._step
        self.add(self._last, value)
        return self._last

    def add(self, number: int, value: Any) -> None:
        """Take a value that has its number from the other side."""
        self.held[number] = value
        self._numbers[id(value)] = number

    def told(self, number: int) -> None:
        """Both sides have the value as it is now."""
        self._seen[number] = _parts(self.held[number])

    def untold(self, number: int) -> None:
        """What was written of the value did not cross after all."""
        self._seen[number] = [self]

    def forget(self, number: int) -> None:
        self._seen.pop(number, None)
        if number in self.held:
            del self._numbers[id(self.held.pop(number))]

    def changed(self) -> list[int]:
        """Return the numbers of those that are not what the other side knows."""
        return [number for number, seen in self._seen.items() if not _same(seen, _parts(self.held[number]))]

    def unheld(self) -> list[int]:
        """Forget those that nobody else here holds, and return their numbers."""
        found: list[int] = []
        while True:
            alone = [number for number in self._seen if sys.getrefcount(self.held[number]) <= _ALONE]
            if not alone:
                return found
            for number in alone:  # what it held may be held by nobody now
                self.forget(number)
            found += alone


def base_of(value: Any) -> Any:
    """Return the builtin type that a mutable value is, or is built on."""
    kind = type(value)
    if id(kind) in TAGS:
        return kind
    return next(one for one in (list, dict, set, deque, bytearray) if issubclass(kind, one))


def items(value: Any) -> list[Any]:
    """Return what a mutable value holds, pairs for a dict, by no method that it may have of its own."""
    base = base_of(value)
    return [*base.items(value)] if issubclass(base, dict) else [*base.__iter__(value)]


def _parts(value: Any) -> list[Any]:
    if base_of(value) is bytearray:
        return [bytes(bytearray.__getitem__(value, slice(None)))]
    found = items(value)
    return [part for pair in found for part in pair] if issubclass(type(value), dict) else found


def _same(seen: list[Any], parts: list[Any]) -> bool:
    if len(seen) != len(parts):
        return False
    return all(map(is_, seen, parts)) or (len(parts) == 1 and type(parts[0]) is bytes and seen == parts)


def refill(value: Any, content: Any) -> None:
    """Make a mutable value equal to another of its type, by no method that it may have of its own."""
    base = base_of(value)
    if base in (list, bytearray):
        base.__setitem__(value, slice(None), content)
        return
    base.clear(value)
    if issubclass(base, dict):
        for key, one in content.items():
            base.__setitem__(value, key, one)
    else:
        (set.update if base is set else deque.extend)(value, content)


def _alone() -> int:
    """Return what this interpreter counts of a value that one table holds."""
    held: dict[int, Any] = {0: []}
    (count,) = [sys.getrefcount(held[number]) for number in held]  # counted as `unheld` does
    return count


_ALONE = _alone()
