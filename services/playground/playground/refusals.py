"""Errors as pages: a browser gets HTML with what happened and the way out, everybody else problem+json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from playground.guard import wants_page
from shared.errors import InvalidRequest, RoomError, class_for
from shared.problems import problem_response, record


def add_errors(app: FastAPI, page: Callable[..., HTMLResponse]) -> None:
    """Put these answers in the place of those that every service has.

    page  draws a template: page(name, status, error=...)
    """
    as_problem: Any = app.exception_handlers[RequestValidationError]

    def answer(request: Request, error: RoomError, status: int) -> Response:
        record(error)
        if wants_page(request.headers):
            return page("error.html", status, error=error)
        return problem_response(error, status=status)

    @app.exception_handler(RoomError)
    async def room_error(request: Request, error: RoomError) -> Response:
        return answer(request, error, error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if not wants_page(request.headers):
            problem: Response = await as_problem(request, error)
            return problem
        first = error.errors()[0]
        what = f"{first['loc'][-1]}={str(first.get('input'))[:100]!r}: {first['msg']}"
        return answer(request, InvalidRequest(what, hint="correct the address"), InvalidRequest.status)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        # FastAPI hides what went wrong while it read the body, e.g. a TooLarge, behind a 400.
        if isinstance(error.__cause__, RoomError):
            return answer(request, error.__cause__, error.__cause__.status)
        what = f"{request.method} {request.url.path[:100]}: {error.detail}"
        known = class_for(error.status_code)(what, hint="the start page shows what there is")
        return answer(request, known, error.status_code)
