"""The sandbox over HTTP: judge programs against tests, or execute them. It never sees a task.

A program that fails, hangs or attacks is HTTP 200 with a verdict; an HTTP error means there is none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from sandbox_service import execute, run_code
from sandbox_service.room import Room, Work, as_they_end, gather
from sandbox_service.run_code import RunCode, RunCodeReply
from sandbox_service.settings import SandboxSettings
from shared.errors import RoomError
from shared.problems import problem_response
from shared.service import cancelled_by_disconnect, create_service
from shared.wire import Capabilities, ExecuteReply, ExecuteRequest, JudgeReply, JudgeRequest
from shared.wire_plan import PlanReply, PlanRequest

VERSION = "0.1.0"
NDJSON = "application/x-ndjson"
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {NDJSON: {}}, "description": "as JSON, or as one line per job when it ends"}
}


def create_app(settings: SandboxSettings) -> FastAPI:
    """Make the app. It works only after its lifespan has begun and /readyz says so.

    raises  at the start of the lifespan: JailMissing, when no jail here is as strong as the settings want
    """
    rooms: list[Room] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await room.open()
        try:
            yield
        finally:
            await room.close()

    app = create_service(
        name="sandbox-service",
        version=VERSION,
        settings=settings,
        lifespan=lifespan,
        ready=lambda: rooms[0].ready(),
        health=lambda: {"jail": rooms[0].jail_name()},
        description="Runs untrusted Python in jails and says whether it passes its tests.",
    )
    room = Room(settings, app.state.registry)
    rooms.append(room)
    app.state.room = room
    work = APIRouter(route_class=_refusing_early(room))

    @work.post("/v1/judge", response_model=JudgeReply, responses=_STREAMED, tags=["sandbox"])
    async def judge(request: Request, wanted: JudgeRequest) -> Response:
        """Judge programs by their tests. With `Accept: application/x-ndjson` each verdict is sent when it
        is there, as a line `{"index": 0, "verdict": {...}}`; an error after the first line is the last
        line, `{"problem": {...}}`, and then the jobs without a line have no verdict."""
        room.ensure_ready()
        room.admission.ensure_room(len(wanted.jobs))  # before the work of planning
        plans = await cancelled_by_disconnect(request, room.plans(wanted))
        works = [partial(room.judge, plan) for plan in plans]
        if _streams(request):
            return await _stream(room, works, "verdict")
        with room.admission.admit(sum(plan.runs for plan in plans)):
            verdicts = await cancelled_by_disconnect(request, gather(works))
        return _json(JudgeReply(verdicts=verdicts))

    @work.post("/v1/execute", response_model=ExecuteReply, responses=_STREAMED, tags=["sandbox"])
    async def run(request: Request, wanted: ExecuteRequest) -> Response:
        """Run programs and bring one variable of each back, in the codec's tagged form. Streams as judge
        does, in lines `{"index": 0, "execution": {...}}`."""
        room.ensure_ready()
        runs = [execute.plan(job) for job in wanted.jobs]
        works = [partial(room.execute, job, run) for job, run in zip(wanted.jobs, runs, strict=True)]
        if _streams(request):
            return await _stream(room, works, "execution")
        with room.admission.admit(len(works)):
            executions = await cancelled_by_disconnect(request, gather(works))
        return _json(ExecuteReply(executions=executions))

    @app.post("/v1/plan", tags=["sandbox"])
    async def plan(request: Request, wanted: PlanRequest) -> PlanReply:
        """Say of each test how it would be judged, and where and why not at `value`. Nothing is run."""
        return await cancelled_by_disconnect(request, room.lint(wanted))

    @work.post("/run_code", tags=["other clients"])
    async def run_code_(request: Request, wanted: RunCode) -> RunCodeReply:
        """Run a program as SandboxFusion's clients ask for it. What it prints is its own word: no verdict."""
        room.ensure_ready()
        run = run_code.plan(wanted)
        with room.admission.admit(1):
            (ended,) = await cancelled_by_disconnect(request, gather([partial(room.run, run)]))
        return run_code.reply(ended)

    app.include_router(work)

    @app.get("/v1/capabilities", tags=["sandbox"])
    async def capabilities() -> Capabilities:
        """The jail in force, its layers and known weaknesses, what was tried against it, room for work."""
        return room.capabilities()

    return app


def _refusing_early(room: Room) -> type[APIRoute]:
    """Make routes that refuse before they read a request, where the queue is as good as full."""

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def refuse_or_handle(request: Request) -> Response:
                room.admission.ensure_open()
                return await handle(request)

            return refuse_or_handle

    return Route


def _streams(request: Request) -> bool:
    return NDJSON in request.headers.get("accept", "")


def _json(reply: BaseModel) -> Response:
    """Write the reply at once: it was valid when it was made, FastAPI would go through it again."""
    return Response(reply.model_dump_json(), media_type="application/json")


async def _stream(room: Room, works: Sequence[Work[Any]], name: str) -> Response:
    """Stream a line per job. The first step is taken here, so that a full queue is still a 429."""
    lines = _lines(room, works, name)
    await lines.__anext__()
    return StreamingResponse(lines, media_type=NDJSON)


async def _lines(room: Room, works: Sequence[Work[Any]], name: str) -> AsyncGenerator[bytes, None]:
    with room.admission.admit(len(works)) as one_is_done:

        async def counted(work: Work[Any]) -> Any:
            done = await work()
            one_is_done()
            return done

        yield b""
        try:
            async for index, done in as_they_end([partial(counted, work) for work in works]):
                yield f'{{"index":{index},"{name}":{done.model_dump_json()}}}\n'.encode()
        except RoomError as error:
            yield b'{"problem":' + bytes(problem_response(error).body) + b"}\n"
