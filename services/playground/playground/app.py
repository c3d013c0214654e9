"""The playground's routes. It reads run folders and asks the two services; it writes nothing.

Every page is whole without a script. The script only brings what the server would say anyway: a running
run's news, and an answer without loading the page again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from playground.comparison import Compared, Comparisons
from playground.evolution import Histories
from playground.folders import Folders, RunCard
from playground.guard import Bound, Session, came_from_elsewhere, wants_page
from playground.phrasebook import Order, read_book
from playground.refusals import add_errors
from playground.render import HERE, make_environment
from playground.rooms import Rooms
from playground.settings import PlaygroundSettings
from playground.talk import Answer, Asked, Desk, no_task
from playground.watch import watched
from shared.errors import InvalidRequest, NotFound, Overloaded, RequestRefused, RoomError
from shared.service import create_service
from trainer.measure.ask import Task
from trainer.measure.plot import STYLE as PLOT_STYLE

PER_PAGE = 50
HEARTBEAT_S = 15.0
PARTS = ("state", "tiles", "charts", "looks", "messages")
_ABOUT = "Shows runs while they go on and after, sends messages through decoder and sandbox. Only reads runs."


def create_app(settings: PlaygroundSettings) -> FastAPI:
    """Make the service. It is ready at once: without the other services its pages say how to start them."""
    rooms = Rooms(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await rooms.aclose()

    app = create_service(
        name="playground", version=_version(), settings=settings, lifespan=lifespan, ready=lambda: None,
        description=_ABOUT,
    )  # fmt: skip
    pages = Pages(settings, app, rooms)
    _add_assets(app)
    _add_runs(app, pages)
    _add_talk(app, pages)
    add_errors(app, pages.page)
    if secret := settings.secret():
        app.add_middleware(Session, secret=secret, login=lambda wrong: pages.text("login.html", wrong=wrong))
    app.add_middleware(Bound)
    return app


class Pages:
    """What the routes share: the runs folder, what was worked out lately, the templates."""

    def __init__(self, settings: PlaygroundSettings, app: FastAPI, rooms: Rooms) -> None:
        self.settings, self.app, self.rooms = settings, app, rooms
        self.folders = Folders(settings.runs)
        self.histories, self.comparisons = Histories(self.folders), Comparisons(self.folders)
        self.desk = Desk(settings, self.folders, rooms)
        self.watchers = 0
        self._environment = make_environment()

    def text(self, template: str, **values: Any) -> str:
        """Return a template filled in."""
        return self._environment.get_template(template).render(settings=self.settings, **values)

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page. It is not to be stored: what it shows changes."""
        return HTMLResponse(self.text(template, **values), status, {"Cache-Control": "no-store"})

    def students(self) -> list[str]:
        """Return the text runs that have a trained student, the latest first."""
        cards = [self.folders.card(name) for name in self.folders.names()[:500]]
        return [card.name for card in cards if card.has_student and card.channel == "text"]

    def news(self, name: str) -> dict[str, str]:
        """Return the parts of a run's page that change while it goes on, as HTML by name."""
        shown = watched(self.folders, name)
        return {part: self.text(f"parts/{part}.html", shown=shown, run=shown.card) for part in PARTS}


def _add_assets(app: FastAPI) -> None:
    own = (HERE / "assets" / "style.css").read_text(encoding="utf-8")
    # The plots' colours are needed outside the plots too, by the legends.
    style = own + PLOT_STYLE.replace(".plot{--k0", ".plot,.legend{--k0")
    tag = f'"{hashlib.sha256(style.encode()).hexdigest()[:32]}"'

    @app.get("/assets/style.css", include_in_schema=False)
    async def stylesheet(request: Request) -> Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(style, media_type="text/css", headers=headers)

    app.mount("/assets", StaticFiles(directory=HERE / "assets"))


def _add_runs(app: FastAPI, pages: Pages) -> None:
    folders = pages.folders

    @app.get("/", response_class=HTMLResponse)
    async def runs(
        search: Annotated[str, Query(max_length=200)] = "",
        page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    ) -> HTMLResponse:
        """The runs, the one that wrote last first."""

        def read() -> dict[str, Any]:
            names = [name for name in folders.names() if search.lower() in name.lower()]
            last = max(1, -(-len(names) // PER_PAGE))
            number = min(page, last)
            cards = [folders.card(name) for name in names[(number - 1) * PER_PAGE : number * PER_PAGE]]
            return {"cards": cards, "total": len(names), "number": number, "last": last}

        found, states = await asyncio.gather(asyncio.to_thread(read), pages.rooms.states())
        return pages.page("runs.html", search=search, rooms=states, **found)

    @app.get("/runs/{name}", response_class=HTMLResponse)
    async def watch(name: str) -> HTMLResponse:
        """One run while it goes on: figures, curves, verdicts, the latest messages."""
        shown = await asyncio.to_thread(watched, folders, name)
        return pages.page("watch.html", shown=shown, run=shown.card)

    @app.get("/runs/{name}/live", response_class=StreamingResponse)
    async def live(name: str) -> StreamingResponse:
        """Server-sent events: `news`, the parts of the page above as HTML by name; `end` when it is over."""
        folders.path(name)
        if pages.watchers >= pages.settings.watchers:
            raise Overloaded(
                f"{pages.watchers} pages are watching", retry_after_s=10,
                hint="close some, or raise PLAYGROUND_WATCHERS",
            )  # fmt: skip
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(pages, name), media_type="text/event-stream", headers=headers)

    @app.get("/runs/{name}/evolution", response_class=HTMLResponse)
    async def evolution(
        request: Request, name: str, task: Annotated[str, Query(max_length=1000)] = "", every: bool = False
    ) -> HTMLResponse:
        """One task's message through the steps, with its program and verdict."""
        history = await asyncio.to_thread(pages.histories.read, name, task, everything=every)
        if history and history.missing and not wants_page(request.headers):
            raise no_task(name, task)
        about = await _about(pages, name, history.task) if history else None
        return pages.page(
            "evolution.html", run=folders.card(name), history=history, about=about, every=every, asked=task
        )

    @app.get("/runs/{name}/phrasebook", response_class=HTMLResponse)
    async def phrasebook(
        name: str, search: Annotated[str, Query(max_length=200)] = "", order: Order = "sure"
    ) -> HTMLResponse:
        """Which symbol of a student's messages stands for which piece of program."""
        book = await asyncio.to_thread(read_book, folders, name, search=search, order=order)
        return pages.page("phrasebook.html", run=folders.card(name), book=book, search=search, order=order)

    @app.get("/compare", response_class=HTMLResponse)
    async def compare(
        request: Request, run: Annotated[list[str] | None, Query(max_length=500)] = None, asked: bool = False
    ) -> HTMLResponse:
        """Pass rate against bits per message, of several runs; before any is asked for, of the latest."""

        def read() -> tuple[list[RunCard], Compared | None]:
            cards = [folders.card(name) for name in folders.names()[:500]]
            chosen = run or ([] if asked else pages.comparisons.suggested(cards))
            try:
                return cards, pages.comparisons.read(chosen) if chosen else None
            except RequestRefused as error:
                if not wants_page(request.headers):
                    raise
                return cards, Compared(chosen, problem=str(error))

        cards, found = await asyncio.to_thread(read)
        return pages.page("compare.html", cards=cards, found=found, asked=asked, suggested=not run)


async def _about(pages: Pages, run: str, task: str) -> Task | None:
    """Return what a task of a text run is, where it is known."""
    if pages.folders.card(run).channel != "text":
        return None
    try:
        tasks = await pages.desk.tasks(run)
    except RoomError:
        return None
    return next((one for one in tasks if one.task_id == task), None)


async def _events(pages: Pages, name: str) -> AsyncIterator[str]:
    pages.watchers += 1
    try:
        seen, told = None, time.monotonic()
        # A server that is to stop must not wait for pages that watch.
        while not pages.app.state.traffic.draining:
            card = await asyncio.to_thread(pages.folders.card, name)
            now = (pages.folders.stamps(name), card.state)
            if now != seen:
                seen, told = now, time.monotonic()
                news = await asyncio.to_thread(pages.news, name)
                yield f"event: news\ndata: {json.dumps(news)}\n\n"
            if card.state != "running":
                yield "event: end\ndata: {}\n\n"
                return
            if time.monotonic() - told > HEARTBEAT_S:
                told = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(pages.settings.refresh_s)
    finally:
        pages.watchers -= 1


def _add_talk(app: FastAPI, pages: Pages) -> None:
    async def shown(request: Request, asked: Asked, answer: Answer | None = None) -> HTMLResponse:
        """Return the page, refusals as a part of it: a browser logs an error for a status over 399."""
        students, states = await asyncio.gather(asyncio.to_thread(pages.students), pages.rooms.states())
        tasks: list[Task] = []
        unknown: RequestRefused | None = None
        try:
            tasks = await pages.desk.tasks(asked.run)
        except RequestRefused as error:
            unknown = error
        task = next((one for one in tasks if one.task_id == asked.task), None)
        if asked.task and not task and not unknown:
            unknown = no_task(asked.run, asked.task)
        # Programs are told by the status.
        wrong = answer.problem if answer else unknown if isinstance(unknown, NotFound) else None
        if wrong and not wants_page(request.headers):
            raise wrong
        return pages.page(
            "talk.html", asked=asked, answer=answer, students=students, tasks=tasks, task=task, rooms=states,
            unknown=None if answer and answer.problem else unknown,
        )  # fmt: skip

    @app.get("/playground", response_class=HTMLResponse)
    async def form(
        request: Request,
        run: Annotated[str | None, Query(max_length=300)] = None,
        task: Annotated[str, Query(max_length=1000)] = "",
        message: Annotated[str, Query(max_length=20_000)] = "",
        tests: Annotated[str, Query(max_length=20_000)] = "",
    ) -> HTMLResponse:
        """Type a message, or have a student write one. Nothing is sent before the button is pressed."""
        if run is None:
            students = await asyncio.to_thread(pages.students)
            run = students[0] if students else ""
        return await shown(request, Asked(run, task, message, tests))

    @app.post("/playground", response_class=HTMLResponse)
    async def send(request: Request) -> HTMLResponse:
        """Send a message through the decoder and the sandbox, and show what came of it."""
        if came_from_elsewhere(request.headers):
            raise RequestRefused("another site's page sent this", hint="open the playground itself")
        given = await _form(request)
        # A browser sends line ends as CR LF; the message that was typed has LF.
        asked = Asked(
            given.get("run", ""), given.get("task", ""), given.get("message", "").replace("\r\n", "\n"),
            given.get("tests", "").replace("\r\n", "\n"), given.get("by") == "student",
        )  # fmt: skip
        return await shown(request, asked, await pages.desk.answer(asked))


async def _form(request: Request) -> dict[str, str]:
    """Return a form's fields, the last of each name. Raises InvalidRequest for what is no form in UTF-8."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidRequest(
            f"Content-Type {kind[:100]!r} is no form", hint="send application/x-www-form-urlencoded"
        )
    body = await request.body()
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        raise InvalidRequest(f"the form cannot be read: {error}", hint="send it in UTF-8") from error
    return {name: values[-1] for name, values in fields.items()}


def _version() -> str:
    try:
        return version("psuedoptimal")
    except PackageNotFoundError:
        return "0"
