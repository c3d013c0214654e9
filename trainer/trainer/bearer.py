"""The bearer token that a service asks for, read from its file."""

from __future__ import annotations

from pathlib import Path

from trainer.config import ConfigError


def read_token(file: Path | None) -> str | None:
    """Return a bearer token from its file. Raises ConfigError if it cannot be read or is none."""
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the token cannot be read: {error}") from error
    if not token or not all("!" <= letter <= "~" for letter in token):
        raise ConfigError(f"{file}: holds no token: visible ASCII letters on one line, without blanks")
    return token
