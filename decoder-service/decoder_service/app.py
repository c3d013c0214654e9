"""The decoder's routes. No route takes a task; what a request may hold is in shared.wire."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from decoder_service.batching import Batcher
from decoder_service.engines.echo import EchoEngine
from decoder_service.engines.engine import Engine
from decoder_service.engines.weights import find_model
from decoder_service.latent_routes import add_latent_routes
from decoder_service.metrics import Metrics
from decoder_service.settings import DecoderSettings
from decoder_service.tickets import Ticket
from shared.errors import Broken, RoomError
from shared.service import cancelled_by_disconnect, create_service
from shared.starting import load
from shared.wire import DecodeReply, DecodeRequest, ModelCard, PromptReply, TokenizeReply, TokenizeRequest

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
_ABOUT = (
    "Turns messages into Python programs with a frozen generator that sees the message and nothing else. "
    "With `Accept: application/x-ndjson`, /v1/decode answers one line per message as it is finished."
)


def create_app(settings: DecoderSettings, stop: Callable[[], None] = lambda: None) -> FastAPI:
    """Make the service. The model is loaded in the background; /readyz says when it can work.

    stop     called when the model cannot be loaded, or its device is lost, after the error was put on
             app.state.startup_error: the process should end, since it will not be of use again
    returns  the app; app.state.batcher exists while it runs
    """

    def fail(error: RoomError) -> None:
        app.state.startup_error = error
        stop()

    def ready() -> str | None:
        if error := app.state.startup_error:
            return str(error)
        return None if app.state.batcher.ready else "the model is being loaded"

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(settings, lambda: _load(settings), Metrics(app.state.registry), fail)
        app.state.batcher = batcher
        loading = asyncio.create_task(_start(batcher, fail))
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await batcher.close()

    app = create_service(
        name="decoder-service",
        version=_version(),
        settings=settings,
        lifespan=lifespan,
        ready=ready,
        description=_ABOUT,
    )
    _add_routes(app)
    add_latent_routes(app)
    return app


def _load(settings: DecoderSettings) -> Engine:
    match settings.engine:
        case "echo":
            return EchoEngine()
        case "remote":
            from decoder_service.engines.remote import load_remote

            return load_remote(settings)
        case "hf":
            # Before torch is imported, which takes seconds that a mistyped folder need not cost.
            find_model(settings.model)
            # Here, not above: the echo engine runs where torch is not installed.
            load("transformers.modeling_utils")  # which its auto classes import when they are first asked
            load("decoder_service.engines.hf")
            from decoder_service.engines.hf import load_engine

            return load_engine(settings)


async def _start(batcher: Batcher, fail: Callable[[RoomError], None]) -> None:
    try:
        await batcher.start()
    except RoomError as error:
        fail(error)
    except Exception as error:
        # The edge of the loading thread: whatever failed, the process must end and say so.
        log.exception("loading failed")
        fail(Broken(f"loading failed: {type(error).__name__}: {error}", hint="see the log above"))


def _add_routes(app: FastAPI) -> None:
    @app.post("/v1/decode", response_model=DecodeReply, tags=["decoder"])
    async def decode(body: DecodeRequest, request: Request) -> Response | DecodeReply:
        """Decode messages. A program depends on its message, the parameters and the seed only."""
        batcher: Batcher = app.state.batcher
        if NDJSON in request.headers.get("accept", ""):
            return _Streamed(batcher, await batcher.admit(body))
        programs = await cancelled_by_disconnect(request, _decoded(batcher, body))
        return programs

    @app.post("/v1/tokenize", tags=["decoder"])
    async def tokenize(body: TokenizeRequest) -> TokenizeReply:
        """Count the tokens of texts with the generator's tokenizer."""
        engine = app.state.batcher.engine
        return TokenizeReply(tokens=await asyncio.to_thread(engine.count, body.texts))

    @app.post("/v1/prompt", tags=["decoder"])
    async def prompt(body: DecodeRequest) -> PromptReply:
        """Show what the generator would read for the same request to /v1/decode. Nothing is generated."""
        engine = app.state.batcher.engine
        return PromptReply(prompts=await asyncio.to_thread(engine.prompts, body.messages))

    @app.get("/v1/model", tags=["decoder"])
    async def model() -> ModelCard:
        """What must be recorded so that a run can be repeated."""
        card: ModelCard = app.state.batcher.engine.card()
        return card


async def _decoded(batcher: Batcher, body: DecodeRequest) -> DecodeReply:
    with batcher.waiting_for(await batcher.admit(body)) as ticket:
        programs = await ticket.programs()
    cached = sum(program.cached for program in programs)
    return DecodeReply(programs=programs, model=batcher.engine.card().name, cached=cached)


class _Streamed(StreamingResponse):
    """One JSON line per message, as it is finished: {"index": 3, "text": ..., "tokens": ..., ...}.

    A failure after the first line cannot be a status any more: it is a last line {"problem": {...}}.
    """

    def __init__(self, batcher: Batcher, ticket: Ticket) -> None:
        super().__init__(self._lines(ticket), media_type=NDJSON)
        self._batcher, self._ticket = batcher, ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Around the whole reply: a client that leaves cancels the lines, and its jobs are let go here.
        with self._batcher.waiting_for(self._ticket):
            await super().__call__(scope, receive, send)

    async def _lines(self, ticket: Ticket) -> AsyncIterator[str]:
        try:
            async for index, program in ticket.finished():
                yield _line({"index": index, **program.model_dump()})
        except RoomError as error:
            problem = {"status": error.status, "code": error.code, "detail": error.detail, "hint": error.hint}
            yield _line({"problem": {"title": error.title, **problem}})


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _version() -> str:
    try:
        return version("psuedoptimal")
    except PackageNotFoundError:
        return "0"
