"""The program's exceptions as a test in the judge meets them: of a class it names, or of the nearest builtin.

What an exception carries besides its arguments is asked of the program, where the exception stays. Its class
is made here of the names the program gives; nothing by which a test library skips or stops a test is raised,
and what is no `Exception` there is none here. Standard library only.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from typing import Any

from sandbox_service.rpc_plan import MODULES

_CLASSES_OF = MODULES - {"unittest", "pytest"}  # theirs say how a test goes on


_LEAVING = (SystemExit, KeyboardInterrupt, GeneratorExit)


class ProgramError(Exception):
    """An exception of the program's own class, which the test does not know."""


class Errors:
    """The classes of a test's exceptions.

    named   the program's exception classes that the test names, by name
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.named: dict[str, type[Exception]] = {name: _made(name, (Exception,)) for name in names}
        self._classes: dict[tuple[str, ...], type[Exception]] = {}

    def learn(self, kinds: Sequence[Sequence[str]]) -> None:
        """Take what the program says its classes derive from, each with its own name first."""
        for names in sorted(kinds, key=len):
            if names and names[0] in self.named:
                self.named[names[0]] = _made(names[0], self._bases(names[1:]))

    def error(
        self,
        kinds: Sequence[str],
        text: str,
        args: Sequence[Any] | None,
        own: Any,
    ) -> BaseException:
        """Make what a test may expect.

        kinds  the names of its classes, nearest first
        args   its arguments, where they could be sent
        own    the program's exception, where it is of a class of the program's
        """
        if "Exception" not in kinds and kinds[0] not in self.named:
            leaving = next((one for one in _LEAVING if one.__name__ in kinds), BaseException)
            return leaving(*(args or ())) if args or not text else leaving(text)
        kind = self._classes.get(key := tuple(kinds))
        if kind is None:
            kind = self._classes[key] = self._class(kinds)
        if kind is ProgramError:
            return ProgramError(f"{kinds[0]}: {text}")
        if args is None and kind.__module__ == "builtins":
            kind = _made(kind.__name__, (kind,))
        given = (text,) if args is None else tuple(args)
        try:
            error = kind(*given)
        except Exception:  # noqa: BLE001 - a class of the program's takes other arguments than it keeps
            try:
                error = kind.__new__(kind)
            except Exception:  # noqa: BLE001 - as an ExceptionGroup
                return ProgramError(f"{kinds[0]}: {text}")
        error.args = given
        error.__dict__.update(__said__=text, __own__=own, of_the_program=True)
        return error

    def _class(self, kinds: Sequence[str]) -> type[Exception]:
        if kinds[0] in self.named:
            return self.named[kinds[0]]
        bases = self._bases(kinds)
        if bases[0].__name__ == kinds[0]:
            return bases[0]
        return ProgramError if bases == (Exception,) else _made(kinds[0].rpartition(".")[2], bases)

    def _bases(self, kinds: Sequence[str]) -> tuple[type[Exception], ...]:
        """Return the nearest classes that are known, none of which is another's base."""
        found: list[type[Exception]] = []
        for name in kinds:
            known = self.named.get(name) or _known(name)
            if (
                isinstance(known, type)
                and issubclass(known, Exception)
                and not any(issubclass(one, known) for one in found)
            ):
                found.append(known)
        return tuple(found) or (Exception,)


def _known(name: str) -> Any:
    """Return a class of the builtins, or of a module of the library that the test may have."""
    module, _, name = name.rpartition(".")
    owner = sys.modules.get(module) if module.partition(".")[0] in _CLASSES_OF else builtins
    return getattr(owner, name, None) if not module or owner is not builtins else None


def _made(name: str, bases: tuple[type[Exception], ...]) -> type[Exception]:
    """Make a class that says what the program's exception says of itself."""

    def get(self: Any, attribute: str) -> Any:
        own = self.__dict__.get("__own__")
        if attribute.startswith("__") or own is None:
            raise AttributeError(f"{name!r} object has no attribute {attribute!r}")
        return getattr(own, attribute)

    def said(self: Any) -> str:
        found = self.__dict__.get("__said__")
        return found if type(found) is str else bases[0].__str__(self)

    space = {"__getattr__": get, "__str__": said, "__module__": "program"}
    try:
        return type(name, bases, space)
    except TypeError:  # two builtins that cannot be one class's bases
        return type(name, bases[:1], space)
