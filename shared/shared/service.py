"""The base both services stand on: `create_service` makes the app, `serve` runs it until it has drained.

It never imports a room. Its parts: settings (environment), door (every request passes it), problems
(every error leaves through it), pages (OpenAPI and /docs), logs, server (signals and sockets).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from starlette.requests import ClientDisconnect

from shared.door import Door, Traffic
from shared.errors import RoomError, Unavailable
from shared.pages import add_docs, describe_api
from shared.problems import add_problem_handlers, problem_response
from shared.server import Server, serve
from shared.settings import ServiceSettings

__all__ = ["Server", "ServiceSettings", "cancelled_by_disconnect", "create_service", "serve"]

T = TypeVar("T")
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_service(
    *,
    name: str,
    version: str,
    settings: ServiceSettings,
    lifespan: Lifespan,
    ready: Callable[[], str | None],
    description: str = "",
    health: Callable[[], Mapping[str, str]] | None = None,
) -> FastAPI:
    """Make an app with errors, token, ids, logs, metrics, health and docs in place; the caller adds routes.

    ready    why the service cannot work yet, or None when it can; must not block
    health   what /healthz tells beside name and version, e.g. the jail in force; must not block
    returns  a FastAPI whose app.state holds `settings`, `registry` (prometheus, this app's own) and `traffic`
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    app = FastAPI(
        title=name,
        version=version,
        description=description,
        lifespan=_remember_failure(lifespan),
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.registry, app.state.traffic = settings, registry, Traffic()
    app.state.startup_error = None
    app.add_middleware(Door, settings=settings, registry=registry, traffic=app.state.traffic)
    add_problem_handlers(app)
    _add_probes(app, name, version, ready, health)
    add_docs(app)
    describe_api(app, settings)
    return app


def _remember_failure(lifespan: Lifespan) -> Lifespan:
    """Keep a typed error of the start-up on app.state: `serve` names it and takes its exit code from it."""

    @asynccontextmanager
    async def remembering(app: FastAPI) -> AsyncIterator[None]:
        manager = lifespan(app)
        try:
            await manager.__aenter__()
        except RoomError as error:
            app.state.startup_error = error
            raise
        try:
            yield
        except BaseException as error:
            if not await manager.__aexit__(type(error), error, error.__traceback__):
                raise
        else:
            await manager.__aexit__(None, None, None)

    return remembering


def _add_probes(
    app: FastAPI,
    name: str,
    version: str,
    ready: Callable[[], str | None],
    health: Callable[[], Mapping[str, str]] | None,
) -> None:
    traffic: Traffic = app.state.traffic

    @app.get("/healthz", tags=["probes"])
    async def healthz() -> dict[str, str]:
        """Whether the process is alive. Says nothing of whether it can work: that is /readyz."""
        return {"status": "ok", "service": name, "version": version, **(health() if health else {})}

    @app.get("/readyz", tags=["probes"])
    async def readyz() -> Response:
        """200 when work is accepted; 503 while starting or draining, with the reason."""
        reason = "draining: the service was asked to stop" if traffic.draining else ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return problem_response(Unavailable(f"{name} is not ready: {reason}", retry_after_s=1))

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(app.state.registry), media_type=CONTENT_TYPE_LATEST)


async def cancelled_by_disconnect(request: Request, coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` to its end, or cancel it as soon as the client has gone.

    The request's body must have been read already. Blocking work that `coro` waits for in a thread
    goes on by itself unless it looks for the cancellation.

    raises  ClientDisconnect when the client went away first; nobody reads the answer then
    """
    work = asyncio.ensure_future(coro)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnect
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
