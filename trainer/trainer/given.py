"""What a person gave a verb, as a service is asked it: a fault in it is the person's, and said in a line."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from pydantic import ValidationError

from shared.wire import Wire
from trainer.config import ConfigError

R = TypeVar("R", bound=Wire)
_SHOWN = 60


def request(kind: type[R], where: str = "", **fields: Any) -> R:
    """Build what a service is asked.

    where   what it is about, in front of an error
    raises  ConfigError naming the first field that no request can hold, its value and the bound
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, value = ".".join(map(str, first["loc"])), repr(first["input"])
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        raise ConfigError(f"{where}{name}={shown}: {said}; correct it, or give less of it") from error


def stdin_lines() -> list[str]:
    """Return the lines of stdin, with their ends. Raises ConfigError if it is no text."""
    try:
        return list(sys.stdin)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"stdin: is no text in UTF-8: {error}") from error
