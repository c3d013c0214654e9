"""Every error as RFC 9457 problem+json. Never puts a traceback or a token into a body."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, Union, get_args, get_origin

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from shared.errors import Broken, InvalidRequest, NoAnswer, RoomError, class_for
from shared.wire import Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
MAX_VALUE = 100

# Way out by pydantic's error type, where its message alone does not give one.
_HINTS = {
    "missing": "add the field",
    "json_invalid": "send well-formed JSON",
    "model_attributes_type": "send a JSON object with `Content-Type: application/json`",
    "dict_type": "send a JSON object with `Content-Type: application/json`",
    "too_long": "send fewer items, in several requests",
    "string_too_long": "send less text",
}


def problem_response(
    error: RoomError, *, status: int | None = None, errors: Sequence[dict[str, Any]] = ()
) -> JSONResponse:
    """Return the problem+json reply for an error.

    status  another status than the class's own, for HTTP statuses the error tree does not name (405)
    errors  one entry per wrong field, when there are several
    """
    code = status or error.status
    problem = Problem(
        type=f"urn:psuedoptimal:problem:{error.code}",
        title=error.title,
        status=code,
        detail=error.detail,
        code=error.code,
        hint=error.hint,
        field=error.field,
        request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
        errors=list(errors),
    )
    headers = {}
    wait_s = error.retry_after_s
    if code in (429, 503) or (isinstance(error, NoAnswer) and wait_s is not None):
        # Whole seconds only, by RFC 9110; at least 1, so that nobody reads "at once".
        headers["Retry-After"] = str(max(1, math.ceil(wait_s if wait_s is not None else 1)))
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem.model_dump(), status_code=code, headers=headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer RoomError, validation errors and HTTPException (404, 405, ...) with problem+json."""

    @app.exception_handler(RoomError)
    async def room_error(request: Request, error: RoomError) -> JSONResponse:
        record(error)
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        # FastAPI hides what went wrong while it read the body, e.g. our TooLarge, behind a 400.
        if isinstance(error.__cause__, RoomError):
            return problem_response(error.__cause__)
        reply = problem_response(_named(request, error), status=error.status_code)
        for name, value in (error.headers or {}).items():
            reply.headers[name] = value
        return reply


def record(error: RoomError) -> None:
    """Write a line about an error that leaves the service, with the traceback when the room is broken."""
    level = logging.WARNING if error.status >= 500 else logging.INFO
    trace = error if isinstance(error, Broken) else None
    log.log(level, error.code, exc_info=trace, extra={"detail": shorten(str(error), 500)})


def _named(request: Request, error: HTTPException) -> RoomError:
    where, hint = f"{request.method} {shorten(request.url.path)}", ""
    detail = f"{where}: {error.detail}"
    if error.status_code == 404:
        paths = [route.path for route in request.app.routes if isinstance(route, APIRoute)]
        near = difflib.get_close_matches(request.url.path, paths, 1)
        hint = f"did you mean {near[0]}? /docs lists every route" if near else "/docs lists every route"
        detail = f"{where}: no such route"
    elif error.status_code == 405:
        allowed = sorted(_methods(request))
        hint = f"use {' or '.join(allowed)}" if allowed else ""
        error.headers = {"Allow": ", ".join(allowed), **(error.headers or {})}
        detail = f"{where}: this method is not allowed here"
    elif error.status_code == 400:
        hint = "send well-formed JSON in UTF-8 with `Content-Type: application/json`"
    return class_for(error.status_code)(detail, hint=hint)


def _methods(request: Request) -> Iterator[str]:
    for route in request.app.routes:
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE:
            yield from route.methods or ()


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    found = error.errors()
    entries = [_entry(request, item) for item in found[:MAX_ERRORS]]
    first = entries[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    value = f"={first['value']}" if first["value"] else ""
    refused = InvalidRequest(
        f"{first['field']}{value}: {first['detail']}{more}", hint=first["hint"], field=first["field"]
    )
    return problem_response(refused, errors=entries)


def _entry(request: Request, item: dict[str, Any]) -> dict[str, Any]:
    """One wrong field: dotted path, truncated value, what is wrong, the way out."""
    loc, kind = list(item["loc"]), item["type"]
    path = ".".join(str(part) for part in loc[1:]) or str(loc[0])
    if kind == "json_invalid":
        reason = item.get("ctx", {}).get("error", "")
        return {
            "field": "body", "value": "", "detail": f"not JSON: {reason} at character {loc[-1]}",
            "hint": _HINTS[kind],
        }  # fmt: skip
    hint = _HINTS.get(kind, "correct the value; /docs shows the bounds")
    if kind == "extra_forbidden":
        known = known_fields(request, loc)
        near = difflib.get_close_matches(str(loc[-1]), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        hint += f"; known fields: {', '.join(known)}" if known else ""
    value = "" if kind == "missing" else shorten(repr(item.get("input")))
    return {"field": shorten(path), "value": value, "detail": item["msg"], "hint": hint}


def known_fields(request: Request, loc: Sequence[str | int]) -> list[str]:
    """Return the names the model at `loc` knows, by walking the route's body type; empty when there is none.

    loc  as pydantic gives it: "body", then field names and list positions, the unknown name last
    """
    route = request.scope.get("route")
    field = getattr(route, "body_field", None)
    kind: Any = getattr(getattr(field, "field_info", None), "annotation", None)
    for part in loc[1:-1]:
        model = _model(kind)
        if isinstance(part, str) and model is not None and part in model.model_fields:
            kind = model.model_fields[part].annotation
        elif isinstance(part, int):
            kind = next(iter(get_args(kind)), None)
    model = _model(kind)
    return list(model.model_fields) if model is not None else []


def _model(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    options = get_args(kind) if get_origin(kind) in (Union, type(int | None)) else ()
    return next((model for model in map(_model, options) if model is not None), None)


def shorten(text: str, limit: int = MAX_VALUE) -> str:
    """Return untrusted text with control characters escaped, and cut after `limit` characters."""
    cut = text[:limit] + ("…" if len(text) > limit else "")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)
