"""The test's end of its conversation with the program: what it asks, and what of the answers becomes of it.

Every answer is the program's word: it is decoded, never believed to be of a form, and decides nothing but
what a program's own value may decide. Standard library only, and of this room what is.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Callable, Sequence
from typing import Any

from sandbox_service.decode import CodecError, decode
from sandbox_service.inside import frames, serve
from sandbox_service.rpc_errors import Errors
from sandbox_service.rpc_values import Link, NotCarried, Remote, Untold, pack, restore

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


class Pipe(Link):
    """Asks, and runs the test's functions when the program calls them.

    over  why nothing is asked any more; a test may swallow it
    """

    def __init__(self, errors: Sequence[str]) -> None:
        self.errors, self.functions, self.asked = Errors(errors), list[Callable[..., Any]](), 0
        self.over: Gone | NotCarried | Untold | None = None

    def ask(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.over is not None:
            raise self.over
        self.asked += 1
        try:
            if self.asked > _CALLS_MAX:  # the program may be the cause: an iterator without an end
                raise Untold(f"the program is called more than {_CALLS_MAX} times")
            packed = [pack(one, self) for one in args]
            named = [(name, pack(one, self)) for name, one in kwargs.items()]
            send(ASK, marshal.dumps((op, target, packed, named), 2))
            return self._answer(args)
        except (Gone, NotCarried, Untold) as why:
            self.over = why
            raise

    def callback(self, function: Callable[..., Any]) -> int:
        self.functions.append(function)
        return len(self.functions) - 1

    def names(self, names: list[str]) -> list[bool]:
        """Which of these names the program has."""
        found = self.ask("names", None, tuple(names), {})
        if type(found) is not list or len(found) != len(names):
            raise CodecError("the program does not say which names it has")
        return [one is True for one in found]

    def learn_errors(self) -> None:
        """Have the program say what the exception classes that the test names derive from."""
        found = self.ask("kinds", None, tuple(self.errors.named), {}) if self.errors.named else []
        if not _are_names(found, list):
            raise CodecError("the program does not say what its exceptions derive from")
        self.errors.learn(found)

    def _answer(self, args: tuple[Any, ...]) -> Any:
        while True:
            status, payload = _read_answer()
            if status == frames.CALLED:
                self._run(payload)
            elif status == frames.RAISED:
                raise self._error(payload)
            else:
                return self._result(payload, args)

    def _result(self, payload: bytes, args: tuple[Any, ...]) -> Any:
        at, result = 0, None
        while at < len(payload):
            try:
                number, length = serve.PART.unpack_from(payload, at)
            except struct.error:
                raise CodecError("a part without its head") from None
            at += serve.PART.size
            value = self._decode(payload[at : at + length])
            at += length
            if number == serve.RESULT:
                result = value
            elif number < len(args):
                restore(args[number], value)
        return result

    def _decode(self, data: bytes) -> Any:
        return decode(data, lambda kind, number: Remote(self, kind, number))

    def _error(self, payload: bytes) -> Exception:
        """Make the exception a test may expect."""
        match self._decode(payload):
            case [list() as kinds, str() as text, Remote() | None as own, *more] if kinds and _are_names(
                kinds, str
            ):
                args = more[0] if more and type(more[0]) is tuple else None
                return self.errors.error(kinds, text, args, own and own.__getattr__)
        raise CodecError("an exception without its class")

    def _run(self, payload: bytes) -> None:
        """Run one of the test's functions for the program."""
        number, args, kwargs = self._decode(payload)
        try:
            result = self.functions[number](*args, **kwargs)
            message: tuple[str, Any, Any, list[Any]] = ("result", None, pack(result, self), [])
        except Exception as error:  # noqa: BLE001 - the program gets what the test's function raised
            message = ("raise", type(error).__name__, self._said(error), [])
        send(ASK, marshal.dumps(message, 2))

    def _said(self, error: Exception) -> Any:
        """Return an exception's arguments, for the program; its text where they cannot cross."""
        try:
            return pack(error.args, self)
        except (NotCarried, Untold):
            return pack((str(error)[:1000],), self)


def _are_names(found: Any, kind: type) -> bool:
    if type(found) is not list or not all(type(one) is kind for one in found):
        return False
    return kind is str or all(_are_names(one, str) for one in found)
