"""Answer a test that runs in the judge: it asks, this side computes with the program's objects. Stdlib only.

Asks come by `marshal` from the service, which is trusted; answers go by the codec. What the codec does not
carry stays here and is named by a number. Arguments go by value; those the program changed go back with the
answer, so that the test sees it. All of this is the candidate's to sabotage: it only answers for itself.
"""

from __future__ import annotations

import builtins
import importlib
import marshal
import operator
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from sandbox_service.inside import codec, frames

ASK = struct.Struct("!I")
PART = struct.Struct("!HI")  # argument number (RESULT for the result itself), length
RESULT = 0xFFFF
_MUTABLE = (list, dict, set, bytearray, deque)
_BUILTIN = (
    "abs", "bool", "bytes", "complex", "dict", "dir", "divmod", "float", "format", "hash", "int",
    "isinstance", "issubclass", "iter", "len", "list", "next", "pow", "repr", "reversed", "round", "str",
)  # fmt: skip


class Callback:
    """A function of the test, called by the program: the test runs it, and answers."""

    def __init__(self, server: Server, number: int) -> None:
        self._server, self._number = server, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._server.call_back(self._number, args, kwargs)


class Server:
    """The program's side of one conversation.

    read   returns exactly that many bytes, raises EOFError when there are no more
    send   takes a status and a payload
    space  the program's globals
    """

    def __init__(
        self, read: Callable[[int], bytes], send: Callable[[bytes, bytes], None], space: dict[str, Any]
    ) -> None:
        self.read, self.send, self.space = read, send, space
        self.objects: list[Any] = []

    def loop(self) -> Any:
        """Answer asks until the test is over, or until a callback's result comes: return that."""
        while True:
            try:
                (length,) = ASK.unpack(self.read(ASK.size))
                op, target, args, kwargs = marshal.loads(self.read(length))
            except EOFError:
                return None
            if op == "result":
                return self.value(args)
            if op == "raise":
                raise _error(target, self.value(args))
            try:
                payload = self.perform(op, target, args, kwargs)
            except BaseException as error:  # noqa: BLE001 - a candidate may raise anything
                self.send(frames.RAISED, self.describe(error))
            else:
                self.send(frames.VALUE, payload)

    def perform(self, op: str, target: Any, args: Any, kwargs: Any) -> bytes:
        """Do what was asked; return the result, and each argument that was changed."""
        if op == "names":
            return _part(RESULT, codec.encode([name in self.space for name in args]))
        if op == "kinds":
            return _part(RESULT, codec.encode([_kinds(self.space.get(name)) for name in args]))
        values = [self.value(tree) for tree in args]
        named = {name: self.value(tree) for name, tree in kwargs}
        watched = [(i, one, self.encode(one)) for i, one in enumerate(values) if isinstance(one, _MUTABLE)]
        match op:
            case "load":
                result = self.space[target]
            case "call":
                result = self.value(target)(*values, **named)
            case "get":
                result = getattr(self.value(target), *values)
            case "set":
                result = None
                setattr(self.value(target), *values)
            case "has":
                result = hasattr(self.value(target), *values)
            case _:
                result = _operation(op)(*values)
        parts = [_part(RESULT, self.encode(result))]
        parts += [_part(i, now) for i, one, before in watched if (now := self.encode(one)) != before]
        return b"".join(parts)

    def encode(self, value: Any) -> bytes:
        return codec.encode(value, self.keep)

    def keep(self, value: Any) -> int:
        """Keep an object that is not carried; return its number."""
        self.objects.append(value)
        return len(self.objects) - 1

    def value(self, tree: Any) -> Any:
        """Build what was sent: plain values as they are, the rest as tagged tuples."""
        if type(tree) is not tuple:
            return tree
        tag, body = tree
        match tag:
            case "l":
                return [self.value(one) for one in body]
            case "t":
                return tuple(self.value(one) for one in body)
            case "d":
                return {self.value(key): self.value(one) for key, one in body}
            case "S":
                return {self.value(one) for one in body}
            case "F":
                return frozenset(self.value(one) for one in body)
            case "dq":
                return deque(self.value(one) for one in body)
            case "it":
                return iter([self.value(one) for one in body])
            case "ba":
                return bytearray(body)
            case "r":
                return range(*body)
            case "h":
                return self.objects[body]
            case "n":
                return self.space[body]
            case "cb":
                return Callback(self, body)
            case "py":
                found: Any = importlib.import_module(body[0])
                for name in body[1].split("."):
                    found = getattr(found, name)
                return found
            case "new":
                kind, arguments = body
                return self.value(kind)(*(self.value(one) for one in arguments))
        raise ValueError(f"an unknown tag {tag!r}")

    def describe(self, error: BaseException) -> bytes:
        """Return the names of an exception's classes, nearest first, its text, itself where its class is the
        program's, and its arguments where there is room for them."""
        try:
            kind = type(error)
            own = None if kind.__module__ == "builtins" else error.with_traceback(None)
            said = [_kinds(kind), str(error)[:1000], own]
            for more in ([*said, tuple(error.args)], said):
                payload = self.encode(more)
                if payload.startswith(b'["l"') and len(payload) <= frames.RAISED_MAX:
                    return payload
        except BaseException:  # noqa: BLE001 - __str__ is the candidate's
            pass
        return codec.encode([["Exception"], "an exception that cannot be described", None])

    def call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have the test run one of its functions."""
        self.send(frames.CALLED, self.encode((number, list(args), kwargs)))
        return self.loop()


def _operation(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(builtins if name in _BUILTIN else operator, name)
    return found


def _part(number: int, payload: bytes) -> bytes:
    return PART.pack(number, len(payload)) + payload


def _error(name: str, args: tuple[Any, ...]) -> BaseException:
    """Make what a function of the test raised."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        try:
            return kind(*args)
        except TypeError:  # a UnicodeError, which wants five arguments
            pass
    return RuntimeError(*args)


def _kinds(kind: Any) -> list[str]:
    """Return the names of a class and its bases, nearest first; none of what is no class."""
    return [one.__name__ for one in kind.__mro__ if one is not object] if isinstance(kind, type) else []
