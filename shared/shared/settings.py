"""What every service reads from its environment, once. A value that cannot be used stops the start."""

from __future__ import annotations

import difflib
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from typing_extensions import Self

SECRETS = frozenset({"token"})


class ServiceSettings(BaseSettings):
    """The settings both services share. Each service subclasses it with its own prefix and port:

        class DecoderSettings(ServiceSettings):
            model_config = SettingsConfigDict(env_prefix="DECODER_", frozen=True)
            port: int = Field(8001, ge=0, le=65535)

    `DecoderSettings.load()` is for a process's entry: it prints one readable line and exits with 2.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", min_length=1, max_length=255, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    token: SecretStr | None = Field(None, description="bearer token; token_file is safer")
    token_file: Path | None = Field(None, description="file that holds the bearer token")
    max_body_mb: int = Field(64, ge=1, le=4096, description="largest request body")
    drain_s: float = Field(30.0, ge=0, le=3600, description="how long requests may finish after SIGTERM")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least severe")
    log_json: bool | None = Field(None, description="JSON lines; unset: JSON unless stderr is a terminal")

    @classmethod
    def load(cls) -> Self:
        """Read the environment; on a bad value or name print which, and the way out, and exit with 2."""
        if misspelt := cls._misspelt():
            for line in misspelt:
                print(line, file=sys.stderr)
            raise SystemExit(2)
        try:
            return cls()
        except ValidationError as error:
            for line in explain(error, cls.prefix(), cls):
                print(line, file=sys.stderr)
            raise SystemExit(2) from None

    @classmethod
    def _misspelt(cls) -> list[str]:
        """Say which variables nearly are a setting. Others may use the prefix too (DECODER_URL)."""
        known = [f"{cls.prefix()}{name}".upper() for name in cls.model_fields]
        lines = []
        for name in sorted(os.environ):
            if name.startswith(cls.prefix()) and name not in known:
                near = difflib.get_close_matches(name, known, 1, cutoff=0.85)
                lines += [f"{name}: no such setting; did you mean {near[0]}?"] if near else []
        return lines

    @classmethod
    def prefix(cls) -> str:
        """Return the prefix of the environment variables, e.g. "DECODER_"."""
        return str(cls.model_config.get("env_prefix") or "")

    def secret(self) -> str | None:
        """Return the bearer token, or None when none is needed."""
        return self.token.get_secret_value() if self.token else None

    @field_validator("token")
    @classmethod
    def _usable_token(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token else ""
        if not all("!" <= letter <= "~" for letter in text):
            raise ValueError("the token may hold visible ASCII letters only, no blanks")
        return token if text else None

    @model_validator(mode="before")
    @classmethod
    def _token_from_file(cls, values: dict[str, Any]) -> dict[str, Any]:
        path = values.get("token_file")
        if not path or values.get("token"):
            return values
        name = f"{cls.prefix()}TOKEN_FILE"
        what = f"{name}={str(path)!r}"
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{what}: cannot be read ({error}); create it or unset {name}") from None
        if not text:
            raise ValueError(f"{what}: the file is empty; put the token into it or unset {name}")
        return {**values, "token": SecretStr(text)}

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"{self.prefix()}HOST={self.host!r}: an address beyond this machine needs a token; "
                f"set {self.prefix()}TOKEN_FILE to a file that holds one, or {self.prefix()}HOST=127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`; a name other than localhost counts as not."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def explain(error: ValidationError, prefix: str, settings: type[BaseSettings]) -> list[str]:
    """Turn pydantic's error into one line per setting: variable, value, what is wrong, the way out."""
    lines = []
    for item in error.errors(include_url=False):
        field = str(item["loc"][0]) if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ")
        if not field:
            lines.append(message)
            continue
        value = "(hidden)" if field in SECRETS else repr(item["input"])[:200]
        known = settings.model_fields.get(field)
        about = f" ({known.description})" if known and known.description else ""
        way_out = "unset it for the default" if known and not known.is_required() else "set it"
        lines.append(f"{prefix}{field.upper()}={value}: {message}{about}; correct it or {way_out}")
    return lines
