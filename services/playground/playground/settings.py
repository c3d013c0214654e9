"""What the playground reads from its environment: PLAYGROUND_*, once, at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import SettingsConfigDict
from typing_extensions import Self

from shared.peers import service_url
from shared.service import ServiceSettings


def _can_be_asked(url: str) -> str:
    service_url(url)
    return url


Url = Annotated[
    str, StringConstraints(pattern=r"^https?://\S+$", max_length=500), AfterValidator(_can_be_asked)
]


class PlaygroundSettings(ServiceSettings):
    """The playground's settings beside those every service has (host, port, token, ...)."""

    model_config = SettingsConfigDict(env_prefix="PLAYGROUND_")

    port: int = Field(8003, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    runs: Path = Field(Path("runs"), description="folder that holds the run folders; it is only read")
    decoder_url: Url = Field("http://127.0.0.1:8001", description="the decoder service")
    decoder_token_file: Path | None = Field(None, description="file with the decoder's bearer token")
    decoder_log: Path | None = Field(None, description="log of a decoder that was started with the page")
    sandbox_url: Url = Field("http://127.0.0.1:8002", description="the sandbox service")
    sandbox_token_file: Path | None = Field(None, description="file with the sandbox's bearer token")
    sandbox_log: Path | None = Field(None, description="log of a sandbox that was started with the page")
    deadline_s: float = Field(30.0, gt=0, le=600, description="how long a message may take, all in all")
    max_program_tokens: int = Field(512, ge=1, le=8192, description="tokens a program may have")
    refresh_s: float = Field(2.0, ge=0.2, le=60, description="how often a watched run is looked at")
    watchers: int = Field(64, ge=1, le=10_000, description="pages that may watch at a time; beyond them 429")
    students: int = Field(2, ge=1, le=64, description="trained students kept in memory")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of a student")
    max_body_mb: int = Field(2, ge=1, le=64, description="largest request body")

    @model_validator(mode="after")
    def _tokens_can_be_read(self) -> Self:
        for name in ("decoder", "sandbox"):
            self.room_token(name)
        return self

    def room_token(self, room: str) -> SecretStr | None:
        """Return the token of the decoder or the sandbox, None where none is needed.

        raises  ValueError naming the variable if its file cannot be read, is empty, or holds no token
        """
        path: Path | None = getattr(self, f"{room}_token_file")
        if path is None:
            return None
        variable = f"{self.prefix()}{room.upper()}_TOKEN_FILE={str(path)!r}"
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{variable}: cannot be read ({error}); create it or unset it") from None
        if not text:
            raise ValueError(f"{variable}: the file is empty; put the token into it or unset it")
        if not all("!" <= letter <= "~" for letter in text):
            raise ValueError(
                f"{variable}: not a token, which has visible ASCII letters only, no blanks; "
                f"put the {room}'s into it"
            )
        return SecretStr(text)
