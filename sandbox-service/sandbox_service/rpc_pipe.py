"""The test's end of its conversation with the program: what it asks, and what of the answers becomes of it.

Every answer is the program's word: it is decoded, never believed to be of a form, and decides nothing but
what a program's own value may decide. Standard library only, and of this room what is.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Callable, Sequence
from typing import Any

from sandbox_service import decode
from sandbox_service.decode import CodecError
from sandbox_service.inside import frames, serve
from sandbox_service.inside.mirrors import KINDS, TAGS, Mirrors, refill
from sandbox_service.rpc_errors import Errors
from sandbox_service.rpc_values import Link, NotCarried, Remote, Untold, content, pack

HEADER = struct.Struct("!cI")
JOB, ANSWER, GONE = b"J", b"A", b"G"
ASK, RESULT, END = b"Q", b"R", b"E"
_CALLS_MAX = 100_000


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
                return self.pipe.mirrors.held[decode.number(number)]
            case ["m", number, [str() as tag, *_] as content] if tag in KINDS:
                return self.mirror(decode.number(number), tag, super().value, content, depth)
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
        if TAGS[id(type(value))] != tag:
            raise CodecError("a value both have is one of another type")
        refill(value, read(content, depth))
        mirrors.told(number)
        return value


class Pipe(Link):
    """Asks, and runs the test's functions when the program calls them.

    over  why nothing is asked any more; a test may swallow it
    """

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors, self.functions, self.asked = Errors(errors), list[Callable[..., Any]](), 0
        self.over: Gone | NotCarried | Untold | None = None
        self.mirrors = Mirrors(-1)
        self.remotes: dict[int, Remote] = {}

    def ask(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.over is not None:
            raise self.over
        self.asked += 1
        try:
            if self.asked > _CALLS_MAX:  # the program may be the cause: an iterator without an end
                raise Untold(f"the program is called more than {_CALLS_MAX} times")
            self._send(op, target, args, kwargs)
            return self._answer()
        except (Gone, NotCarried, Untold) as why:
            self.over = why
            raise

    def _send(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        changed = [content(number, self.mirrors.held[number], self) for number in self.mirrors.changed()]
        forgotten = self.mirrors.unheld()
        packed = [pack(one, self) for one in args]
        named = [(name, pack(one, self)) for name, one in kwargs.items()]
        send(ASK, marshal.dumps((op, target, packed, named, changed, forgotten), 2))

    def callback(self, function: Callable[..., Any]) -> int:
        self.functions.append(function)
        return len(self.functions) - 1

    def remote(self, kind: str, number: int) -> Remote:
        """Return what stands for an object of the program: the same one each time."""
        found = self.remotes.get(number)
        if found is None:
            found = self.remotes[number] = Remote(self, kind, number)
        return found

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

    def _parts(self, payload: bytes) -> tuple[Any, Exception | None]:
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
                    for number in value.split():
                        self.mirrors.forget(int(number))
                case _ if id(type(value)) not in TAGS:
                    raise Untold("the program has changed a value into one that is too large to be carried")
        return result, error

    def _error(self, said: Any) -> Exception:
        """Make the exception a test may expect."""
        match said:
            case (tuple() as kinds, str() as text, Remote() | None as own, *more) if _are_names(kinds):
                args = more[0] if more and type(more[0]) is tuple else None
                return self.errors.error(kinds, text, args, own and own.__getattr__)
        raise CodecError("an exception without its class")

    def _run(self, called: Any) -> None:
        """Run one of the test's functions for the program."""
        number, args, kwargs = called
        try:
            result = self.functions[number](*args, **dict(kwargs))
            self._send("result", None, (result,), {})
        except Exception as error:  # noqa: BLE001 - the program gets what the test's function raised
            self._raise(error)

    def _raise(self, error: Exception) -> None:
        """Have the program raise it: with its arguments, or with its text where they cannot cross."""
        try:
            self._send("raise", type(error).__name__, error.args, {})
        except (NotCarried, Untold):
            self._send("raise", type(error).__name__, (str(error)[:1000],), {})


def _are_names(found: Any) -> bool:
    return type(found) is tuple and bool(found) and all(type(one) is str for one in found)
