"""POST /run_code: SandboxFusion's request and reply, so that its clients work unchanged.

It runs a program and says what it printed; whoever grades by that grades what the program says of itself.
`/v1/judge` is the way to a verdict. Fields and their meaning: SandboxFusion's published API.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox_service.run import Ended, Run
from shared.errors import InvalidRequest, Unsupported
from shared.wire import MAX_STREAM, MAX_TEXT, Limits

_MOST_FILES, _MOST_BYTES = 100, 16 << 20


class RunCode(BaseModel):
    """A program to run. Fields this service has no use for are accepted and not looked at."""

    model_config = ConfigDict(extra="ignore")

    code: str = Field(max_length=MAX_TEXT)
    language: str = "python"
    stdin: str | None = Field(None, max_length=MAX_STREAM)
    compile_timeout: float = Field(10.0, gt=0)
    run_timeout: float = Field(10.0, gt=0, le=60, description="seconds, of CPU as well as by the clock")
    memory_limit_MB: int = Field(-1, le=8192, description="megabytes; -1 for the service's default")
    files: dict[str, str | None] = Field({}, max_length=_MOST_FILES, description="relative path to base64")
    fetch_files: list[str] = []


class CommandRun(BaseModel):
    """How it ended."""

    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class RunCodeReply(BaseModel):
    """`Success` where the program ended by itself with exit status 0, else `Failed`."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: CommandRun | None = None
    run_result: CommandRun | None = None
    executor_pod_name: str | None = None
    files: dict[str, str] = {}


def plan(wanted: RunCode) -> Run:
    """Return the run. Raises Unsupported or InvalidRequest naming the field."""
    if wanted.language != "python":
        raise Unsupported(f"language={wanted.language!r}: only python is run", field="language")
    if wanted.fetch_files:
        raise Unsupported("fetch_files: files are not brought back", field="fetch_files", hint="print them")
    files = tuple((_relative(name), _content(name, text)) for name, text in wanted.files.items() if text)
    if sum(len(content) for _, content in files) > _MOST_BYTES:
        raise InvalidRequest(f"files: more than {_MOST_BYTES >> 20} MiB in all", field="files")
    limits = Limits(cpu_s=wanted.run_timeout, wall_s=wanted.run_timeout, output_kb=16_384)
    if wanted.memory_limit_MB > 0:
        limits = limits.model_copy(update={"memory_mb": max(32, wanted.memory_limit_MB)})
    return Run(wanted.code, "", (), limits, stdin=wanted.stdin or "", files=files)


def _relative(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or len(name) > 500:
        raise InvalidRequest(
            f"files[{name[:100]!r}]: not a path below the program's own folder",
            field="files",
            hint="use a relative path without `..`",
        )
    return str(path)


def _content(name: str, text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"files[{name[:100]!r}]: not base64: {error}", field="files") from None


def reply(ended: Ended) -> RunCodeReply:
    """Say how it went in SandboxFusion's words."""
    late = ended.how == "timeout"
    fine = ended.how == "answered" and ended.status == 0
    code = ended.status if ended.status is not None else None if late else -1
    said = "" if ended.how in ("answered", "load_error") else f"{ended.how}: {ended.detail}"
    return RunCodeReply(
        status="Success" if fine else "Failed",
        message=said,
        run_result=CommandRun(
            status="TimeLimitExceeded" if late else "Finished" if ended.status is not None else "Error",
            execution_time=ended.wall_ms / 1e3,
            return_code=code,
            stdout=ended.stdout.decode("utf-8", "replace"),
            stderr=ended.stderr.decode("utf-8", "replace"),
        ),
    )
