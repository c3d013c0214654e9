"""The test's end of its conversation with the program: what it asks, and what of the answers becomes of it.

Every answer is the program's word: it is decoded, never believed to be of a form, and decides nothing but
what a program's own value may decide. Standard library only, and of this room what is.
"""

from __future__ import annotations

import contextlib
import importlib
import marshal
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from sandbox_service import decode
from sandbox_service.decode import CodecError
from sandbox_service.inside import frames, serve
from sandbox_service.inside.mirrors import KINDS, TAGS, Mirrors, base_of, refill
from sandbox_service.rpc_errors import Errors
from sandbox_service.rpc_kept import IMMUTABLE, MUTABLE, kept_class
from sandbox_service.rpc_remote import Link, NotCarried, Remote, Untold
from sandbox_service.rpc_values import LIBRARY, content, pack

HEADER = struct.Struct("!cI")
JOB, ANSWER, GONE = b"J", b"A", b"G"
ASK, RESULT, END = b"Q", b"R", b"E"
_CALLS_MAX = 100_000
_DIGITS_MAX = 20


class Gone(BaseException):
    """The program's run has ended: there are no more answers."""


def send(kind: bytes, payload: bytes = b"") -> None:
    """Write a frame to the service."""
    frames.write_whole(1, HEADER.pack(kind, len(payload)) + payload)


def receive() -> tuple[bytes, bytes]:
    """Read a frame of the service's. Raises EOFError when there are no more."""
    kind, length = HEADER.unpack(frames.read_exactly(0, HEADER.size))
    return kind, frames.read_exactly(0, length)


def _read_answer() -> tuple[bytes, bytes]:
    kind, payload = receive()
    if kind == GONE:
        raise Gone
    return payload[:1], payload[1:]


class Reader(decode.Reader):
    """Reads what the program sends: its objects too, and the mutable values that both sides have."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe

    def value(self, tree: Any, depth: int) -> Any:
        match tree:
            case ["h", name, number]:
                return self.pipe.remote(decode.type_name(name), decode.number(number))
            case ["m", number]:
                if (held := self.pipe.mirrors.held.get(decode.number(number))) is None:
                    raise CodecError("a value that the test does not have")
                return held
            case ["m", number, [str() as tag, *_] as content] if tag in KINDS:
                return self.mirror(decode.number(number), tag, super().value, content, depth)
            case ["k", name, number, kind, names, content]:
                kept = self.value(names, depth + 1)
                return self.kept(
                    decode.type_name(name), decode.number(number), decode.number(kind), kept, content
                )
            case ["cb", number] if 0 <= decode.number(number) < len(self.pipe.functions):
                return self.pipe.functions[decode.number(number)]
            case ["py", ["s", str() as module], ["s", str() as name]] if module in LIBRARY:
                found = getattr(importlib.import_module(module), name, None)
                if isinstance(found, type) and (found.__module__, found.__name__) == (module, name):
                    return found
        return super().value(tree, depth)

    def mirror(self, number: int, tag: str, read: Callable[[Any, int], Any], content: Any, depth: int) -> Any:
        """Return a mutable value with what the program says it holds; one that both have stays itself."""
        mirrors = self.pipe.mirrors
        value = mirrors.held.get(number)
        if value is None:
            if number <= 0:
                raise CodecError("the program numbers a value in the test's name")
            value = KINDS[tag]()
            mirrors.add(number, value)
        if TAGS[id(base_of(value))] != tag:
            raise CodecError("a value both have is one of another type")
        refill(value, read(content, depth))
        mirrors.told(number)
        return value

    def kept(self, name: str, number: int, kind: int, names: Any, content: Any) -> Any:
        """Return an object of a class that derives from a builtin."""
        pipe = self.pipe
        match content:
            case ["m", shared, [tag, *_] as inner] if KINDS.get(tag) in MUTABLE:
                if decode.number(shared) <= 0 or decode.number(shared) in pipe.mirrors.held:
                    raise CodecError("the program gives a number of another value to its object")
                one = pipe.kept_kind(name, kind, KINDS[tag], names)()
                pipe.mirrors.add(decode.number(shared), one)
                self.mirror(decode.number(shared), tag, super().value, inner, 1)
            case _:
                value = self.value(content, 1)
                if type(value) not in IMMUTABLE:
                    raise CodecError("an object that derives from no builtin")
                one = type(value).__new__(pipe.kept_kind(name, kind, type(value), names), value)
        pipe.keep(number, one)
        return one


class Pipe(Link):
    """Asks, and runs the test's functions when the program calls them.

    over  why nothing is asked any more; a test may swallow it
    """

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors, self.functions, self.asked = Errors(errors), list[Callable[..., Any]](), 0
        self.over: Gone | NotCarried | Untold | None = None
        self.mirrors = Mirrors(-1)
        self.remotes: dict[int, Any] = {}
        self._callbacks: dict[Callable[..., Any], int] = {}
        self._kinds: dict[int, type] = {}
        self._numbers: dict[int, tuple[Any, int]] = {}  # by id, with what holds it, or knows whether it lives

    def ask(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.over is not None:
            raise self.over
        self.asked += 1
        try:
            if self.asked > _CALLS_MAX:  # the program may be the cause: an iterator without an end
                raise Untold(f"the program is called more than {_CALLS_MAX} times")
            self._send(op, target, args, kwargs)
            return self._answer()
        except CodecError as why:  # no ValueError that a test may expect
            raise self.untold(f"the program's answer cannot be read: {why}") from None
        except (Gone, NotCarried, Untold) as why:
            self.over = why
            raise

    def _send(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before, told = frozenset(self.mirrors.held), self.mirrors.changed()
        try:
            changed = [content(number, self.mirrors.held[number], self) for number in told]
            forgotten = self.mirrors.unheld()
            packed = [pack(one, self) for one in args]
            named = [(name, pack(one, self)) for name, one in kwargs.items()]
        except (NotCarried, Untold):
            for number in [one for one in self.mirrors.held if one not in before]:
                self.mirrors.forget(number)
            for number in told:
                if number in self.mirrors.held:
                    self.mirrors.untold(number)
            raise
        send(ASK, marshal.dumps((op, target, packed, named, changed, forgotten), 2))

    def callback(self, function: Callable[..., Any]) -> int:
        try:
            return self._callbacks[function]
        except (KeyError, TypeError):  # new, or of a class that has no hash
            self.functions.append(function)
            number = len(self.functions) - 1
        with contextlib.suppress(TypeError):
            self._callbacks[function] = number
        return number

    def remote(self, kind: str, number: int) -> Any:
        """Return what stands for an object of the program: the same one each time."""
        found = self.remotes.get(number)
        found = found() if type(found) is weakref.ref else found
        if found is None:
            found = self.remotes[number] = Remote(self, kind, number)
        return found

    def kept_kind(self, name: str, number: int, base: type, names: Any) -> type:
        """Return the class of objects of a program's class; `names`, the first time, is what that has."""
        if number not in self._kinds:
            if type(names) is not tuple or not all(type(one) is str for one in names):
                raise CodecError("a class without its names")
            self._kinds[number] = kept_class(self, name, base, names)
        if not issubclass(self._kinds[number], base):
            raise CodecError("a class that derives from another builtin")
        return self._kinds[number]

    def keep(self, number: int, one: Any) -> None:
        """Know an object by its number; the mutable ones only for as long as the test has them."""
        self.remotes[number] = weakref.ref(one) if issubclass(type(one), MUTABLE) else one
        self._numbers[id(one)] = self.remotes[number], number

    def number(self, one: Any) -> int:
        """Return the number of an object of the program's."""
        if type(one) is Remote:
            return int(one._Remote__number)
        held, number = self._numbers.get(id(one), (None, 0))
        if (held() if type(held) is weakref.ref else held) is not one:
            raise self.untold("a copy of an object of the program has no place in the program")
        return number

    def untold(self, why: str) -> Untold:
        """End the test; return what to raise."""
        self.over = self.over or Untold(why)
        return Untold(why)

    def names(self, names: list[str]) -> list[bool]:
        """Which of these names the program has."""
        found = self.ask("names", None, tuple(names), {})
        if type(found) is not tuple or len(found) != len(names):
            raise CodecError("the program does not say which names it has")
        return [one is True for one in found]

    def learn_errors(self) -> None:
        """Have the program say what the exception classes that the test names derive from."""
        found = self.ask("kinds", None, tuple(self.errors.named), {}) if self.errors.named else ()
        if type(found) is not tuple or not all(map(_are_names, found)):
            raise CodecError("the program does not say what its exceptions derive from")
        self.errors.learn(found)

    def _answer(self) -> Any:
        while True:
            status, payload = _read_answer()
            result, error = self._parts(payload)
            if error is not None:
                raise error
            if status != frames.CALLED:
                return result
            self._run(result)

    def _parts(self, payload: bytes) -> tuple[Any, BaseException | None]:
        """Read an answer: its result or what was raised, and what became of the values that both have."""
        at, result, error = 0, None, None
        while at < len(payload):
            try:
                part, length = serve.PART.unpack_from(payload, at)
            except struct.error:
                raise CodecError("a part without its head") from None
            at += serve.PART.size
            value = decode.decode(payload[at : at + length], Reader(self))
            at += length
            match part, value:
                case serve.RESULT, _:
                    result = value
                case serve.ERROR, _:
                    error = self._error(value)
                case serve.FORGOTTEN, str():
                    for number in map(_number, value.split()):
                        self.mirrors.forget(number)
                case _ if not issubclass(type(value), MUTABLE):
                    raise self.untold(
                        "the program has changed a value into one that is too large to be carried"
                    )
        return result, error

    def _error(self, said: Any) -> BaseException:
        """Make the exception a test may expect."""
        match said:
            case (tuple() as kinds, str() as text, Remote() | None as own, *more) if _are_names(kinds):
                args = more[0] if more and type(more[0]) is tuple else None
                return self.errors.error(kinds, text, args, own)
        raise CodecError("an exception without its class")

    def _run(self, called: Any) -> None:
        """Run one of the test's functions for the program."""
        match called:
            case (int() as number, tuple() as args, tuple() as kwargs):
                pass
            case _:
                raise CodecError("a call of the test's function that names none")
        try:
            result = self.functions[number](*args, **dict(kwargs))
            self._send("result", None, (result,), {})
        except Exception as error:  # noqa: BLE001 - the program gets what the test's function raised
            self._raise(error)

    def _raise(self, error: Exception) -> None:
        """Have the program raise it; what cannot cross as the nearest builtin, with its text."""
        try:
            self._send("raise", None, (error,), {})
        except (NotCarried, Untold):
            kind: Any = next(one for one in type(error).__mro__ if one.__module__ == "builtins")
            nearest = Exception() if kind.__name__.endswith("Group") else kind.__new__(kind)
            nearest.args = (str(error)[:1000],)
            self._send("raise", None, (nearest,), {})


def _number(text: str) -> int:
    if len(text) > _DIGITS_MAX or not text.removeprefix("-").isdecimal():
        raise CodecError("a value without its number")
    return int(text)


def _are_names(found: Any) -> bool:
    return type(found) is tuple and bool(found) and all(type(one) is str for one in found)
