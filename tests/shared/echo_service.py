"""A small real service on shared.service: what its base does is tested on it, also as a process of its own.

Run as `python echo_service.py` with ECHO_PORT and the other ECHO_ variables.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared import server
from shared.errors import Broken, InvalidRequest, NotFound, Overloaded, RoomError, TooLarge, Unsupported
from shared.service import ServiceSettings, cancelled_by_disconnect, create_service, serve
from shared.wire import DecodeReply, DecodeRequest, JudgeReply, JudgeRequest, Program, Usage, Verdict


class EchoSettings(ServiceSettings):
    """`start` chooses what happens at the start: ok, refused (a wrong setting), broken (a bug), stuck (a
    thread works for a minute in the background) or lost (the same, and a typed error ends the service).
    """

    model_config = SettingsConfigDict(env_prefix="ECHO_", frozen=True)
    port: int = Field(8009, ge=0, le=65535, description="port to listen on")
    start: str = "ok"
    clean_up_s: float = server.CLEAN_UP_S


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Fail, or leave a thread at work, if asked to."""
    match app.state.settings.start:
        case "refused":
            raise Unsupported("ECHO_START='refused': cannot start so", hint="set ECHO_START=ok")
        case "broken":
            raise ZeroDivisionError("a bug at the start")
        case "stuck" | "lost" as start:
            executor = ThreadPoolExecutor(1)
            executor.submit(time.sleep, 60)
            if start == "lost":
                app.state.startup_error = Unsupported("the device is lost", hint="start it anew")
                asyncio.get_running_loop().call_later(0.5, signal.raise_signal, signal.SIGTERM)
            yield
            executor.shutdown(wait=False, cancel_futures=True)
            return
    yield


def make_app(settings: EchoSettings | None = None) -> FastAPI:
    """Make the service. app.state.reason is what /readyz says; .cancelled and .answered count requests."""
    settings = settings or EchoSettings()
    app = create_service(
        name="echo", version="1.2.3", settings=settings, lifespan=lifespan,
        ready=lambda: app.state.reason, health=lambda: {"jail": "none"},
    )  # fmt: skip
    app.state.reason, app.state.cancelled, app.state.answered = None, 0, 0

    @app.post("/v1/decode")
    async def decode(request: Request, body: DecodeRequest) -> DecodeReply:
        """Return the messages after `seed` milliseconds."""

        async def work() -> DecodeReply:
            try:
                await asyncio.sleep(body.seed / 1000)
            except asyncio.CancelledError:
                app.state.cancelled += 1
                raise
            app.state.answered += 1
            programs = [Program(text=text, tokens=1, finish_reason="stop") for text in body.messages]
            return DecodeReply(programs=programs, model="echo")

        return await cancelled_by_disconnect(request, work())

    @app.post("/v1/judge")
    async def judge(body: JudgeRequest) -> JudgeReply:
        """Say back each script's program; refuse statements."""
        if any(job.tests for job in body.jobs):
            raise InvalidRequest(
                "jobs.0.tests.0: cannot be split", hint="rewrite it as an assert", field="jobs.0"
            )
        usage = Usage(cpu_ms=0, wall_ms=0)
        passed = Verdict(outcome="passed", tests=[], usage=usage, jail="none", assurance="value")
        return JudgeReply(
            verdicts=[passed.model_copy(update={"stdout_tail": job.program}) for job in body.jobs]
        )

    @app.get("/v1/model")
    async def model() -> dict[str, str]:
        return {"name": "this is no model card"}

    @app.get("/v1/capabilities")
    async def capabilities() -> None:
        raise Overloaded("the queue is full", hint="wait", retry_after_s=0.3)

    _add_failures(app)
    return app


def _add_failures(app: FastAPI) -> None:
    @app.get("/raise/{code}")
    async def fail(code: str) -> None:
        kinds: list[type[RoomError]] = [NotFound, TooLarge, Unsupported, Overloaded, Broken]
        raise next(kind for kind in kinds if kind.code == code)("as asked", hint="do not ask")

    @app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("the secret inside")

    @app.get("/late-bug")
    async def late_bug() -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            yield b"first\n"
            await asyncio.sleep(0.05)
            raise ZeroDivisionError("after the first line")

        return StreamingResponse(lines())

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())


if __name__ == "__main__":
    chosen = EchoSettings.load()
    server.CLEAN_UP_S = chosen.clean_up_s
    sys.exit(serve(make_app(chosen), chosen))
