"""Answer a test that runs in the judge: it asks, this side computes with the program's objects. Stdlib only.

Asks come by `marshal` from the service, which is trusted; answers go by the codec. What the codec does not
carry stays here and is named by a number. What is mutable and goes by value is had by both sides: see
`mirrors`. All of this is the candidate's to sabotage: it only answers for itself.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import marshal
import operator
import struct
from collections.abc import Callable
from typing import Any

from sandbox_service.inside import codec, frames
from sandbox_service.inside.mirrors import KINDS, Mirrors, refill
from sandbox_service.inside.writer import Callback, Writer

ASK = struct.Struct("!I")
PART = struct.Struct("!BI")  # which part of an answer, length
RESULT, ERROR, CHANGED, FORGOTTEN = range(4)
_UNNAMED = ("builtins", "program")
_BUILTIN = (
    "abs", "bool", "bytes", "callable", "complex", "dict", "dir", "divmod", "float", "format", "hash", "int",
    "isinstance", "issubclass", "iter", "len", "list", "next", "pow", "repr", "reversed", "round", "str",
    "type",
)  # fmt: skip


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
        self.callbacks: dict[int, Callback] = {}
        self.begin()

    def begin(self) -> None:
        """Forget what an earlier test had: the next one gives out its numbers anew."""
        for one in self.callbacks.values():
            one.end()
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.told: set[int] = set()  # ids of classes and objects that were told; all of them are kept
        self.callbacks = {}
        self.mirrors = Mirrors(1)

    def loop(self) -> Any:
        """Answer asks until the test is over, or until a callback's result comes: return that."""
        while True:
            try:
                (length,) = ASK.unpack(self.read(ASK.size))
                op, target, args, kwargs, changed, forgotten = marshal.loads(self.read(length))
            except EOFError:
                return None
            for tree in changed:
                self.value(tree)
            for number in forgotten:
                self.mirrors.forget(number)
            if op == "result":
                return self.value(args[0])
            if op == "raise":
                raise self.value(args[0])
            self.send(frames.VALUE, self.answer(op, target, args, kwargs))

    def answer(self, op: str, target: Any, args: Any, kwargs: Any) -> bytes:
        """Do what was asked; return what came of it, and of the values that both sides have."""
        try:
            first = _part(RESULT, self.encode(self.perform(op, target, args, kwargs)))
        except BaseException as error:  # noqa: BLE001 - a candidate may raise anything
            first = _part(ERROR, self.describe(error))
        return first + self.changes(len(first))

    def changes(self, length: int) -> bytes:
        """Return what the program did to mutable values that the test has too.

        length  of what is sent before it; what has no room beside is no value
        """
        parts = []
        for number in self.mirrors.changed():
            parts.append(_part(CHANGED, self.encode(self.mirrors.held[number], changed=True)))
            self.mirrors.told(number)
        if forgotten := self.mirrors.unheld():
            last = _part(FORGOTTEN, codec.encode(" ".join(map(str, forgotten))))
            parts.append(last)
        if length + sum(map(len, parts)) > frames.ANSWER_MAX:
            parts = [_part(CHANGED, codec.encode(...))]
        return b"".join(parts)

    def perform(self, op: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Do what was asked; return the result."""
        values = [self.value(tree) for tree in args]
        match op:
            case "names":  # each test asks this first
                self.begin()
                return tuple(name in self.space for name in values)
            case "kinds":
                return tuple(_kinds(self.space.get(name)) for name in values)
            case "load":
                return self.space[target]
            case "call":
                return self.value(target)(*values, **{name: self.value(tree) for name, tree in kwargs})
            case "get":
                return getattr(self.value(target), *values)
            case "set":
                return setattr(self.value(target), *values)
            case "del":
                return delattr(self.value(target), *values)
            case "method":
                name, *values = values
                named = {key: self.value(tree) for key, tree in kwargs}
                return getattr(self.value(target), name)(*values, **named)
            case "exit":
                error = values[0]
                return bool(self.value(target).__exit__(type(error), error, error.__traceback__))
        return _operation(op)(*values)

    def encode(self, value: Any, changed: bool = False) -> bytes:
        """Write a value. One that is too large is none, and nothing in it has a number."""
        writer = Writer(self.keep, self.mirrors, self.told, changed)
        data = codec.encode(value, None, writer)
        whole = not data.startswith(b'["x"')
        for number in writer.new:
            (self.mirrors.told if whole else self.mirrors.forget)(number)
        if not whole:
            self.told.difference_update(writer.told_now)
        return data

    def keep(self, value: Any) -> int:
        """Keep an object that is not carried; return its number, the same one each time."""
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return number

    def value(self, tree: Any) -> Any:
        """Build what was sent: plain values as they are, the rest as tagged tuples."""
        if type(tree) is not tuple:
            return tree
        tag, body = tree
        match tag:
            case "m":
                return self.mirror(*body)
            case "t":
                return tuple(self.value(one) for one in body)
            case "F":
                return frozenset(self.value(one) for one in body)
            case "it":
                return iter([self.value(one) for one in body])
            case "r":
                return range(*body)
            case "h":
                return self.objects[body]
            case "exc":
                return self.error(body[0], tuple(self.value(one) for one in body[1]))
            case "n":
                return self.space[body]
            case "cb":
                number, name = body
                if number not in self.callbacks:
                    self.callbacks[number] = Callback(self.call_back, number, name)
                return self.callbacks[number]
            case "py":
                found: Any = importlib.import_module(body[0])
                for name in body[1].split("."):
                    found = getattr(found, name)
                return found
            case "new":
                kind, arguments = body
                return self.value(kind)(*(self.value(one) for one in arguments))
        raise ValueError(f"an unknown tag {tag!r}")

    def mirror(self, number: int, tag: str, body: Any) -> Any:
        """Return a mutable value the test has, as it is there; without a tag it is known."""
        if not tag:
            return self.mirrors.held[number]
        if number not in self.mirrors.held:
            self.mirrors.add(number, KINDS[tag]())
        if tag in ("d", "od", "ct"):
            content: Any = {self.value(key): self.value(one) for key, one in body}
        else:
            content = body if tag == "ba" else [self.value(one) for one in body]
        refill(self.mirrors.held[number], content)
        self.mirrors.told(number)
        return self.mirrors.held[number]

    def describe(self, error: BaseException) -> bytes:
        """Return the names of an exception's classes, nearest first, its text, itself where its class is the
        program's, and its arguments where there is room for them."""
        try:
            kind = type(error)
            own = None if kind.__module__ == "builtins" else error.with_traceback(None)
            said = _kinds(kind), str(error)[:1000], own
            payload = self.encode((*said, tuple(error.args)))
            return payload if payload.startswith(b'["t"') else self.encode(said)
        except BaseException:  # noqa: BLE001 - __str__ is the candidate's
            pass
        return codec.encode((("Exception",), "an exception that cannot be described", None))

    def error(self, name: str, args: tuple[Any, ...]) -> BaseException:
        """Make what a test or one of its functions raised."""
        kind = self.space.get(name) or getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            with contextlib.suppress(TypeError):  # a UnicodeError, which wants five arguments
                return kind(*args)
        return RuntimeError(*args)

    def call_back(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have the test run one of its functions."""
        payload = self.encode((number, tuple(args), tuple(kwargs.items())))
        self.send(frames.CALLED, _part(RESULT, payload) + self.changes(len(payload)))
        return self.loop()


def _operation(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(builtins if name in _BUILTIN else operator, name)
    return found


def _part(number: int, payload: bytes) -> bytes:
    return PART.pack(number, len(payload)) + payload


def _kinds(kind: Any) -> tuple[str, ...]:
    """Return the names of a class and its bases, nearest first, with the library's module; none of what is no
    class."""
    if not isinstance(kind, type):
        return ()
    return tuple(
        one.__name__ if one.__module__ in _UNNAMED else f"{one.__module__}.{one.__name__}"
        for one in kind.__mro__
        if one is not object
    )
