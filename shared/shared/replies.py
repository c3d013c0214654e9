"""What a peer's reply says: an answer of the wire's types, or the typed error that it stands for."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
from pydantic import ValidationError

from shared.errors import Broken, RequestRefused, RoomError, class_for
from shared.wire import Problem, Wire

R = TypeVar("R", bound=Wire)


def read_as(kind: type[R], reply: bytes) -> R:
    """Parse a reply; a malformed one is the room's fault, so Broken, and asked for again."""
    try:
        return kind.model_validate_json(reply)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        hint = "client and service must be of the same version, and the URL must be this room's"
        detail = f"the answer is not a {kind.__name__}: {field or 'body'}: {first['msg']}"
        raise Broken(detail, hint=hint, field=field) from error


def error_of(where: str, reply: httpx.Response) -> RoomError:
    """The typed error of a reply that is not 200: the peer's own words if it is a problem, else its text."""
    wait_s = _retry_after(reply.headers.get("Retry-After", ""))
    try:
        problem = Problem.model_validate(json.loads(reply.content))
    except ValueError:
        text = reply.text[:200].encode("unicode_escape").decode()
        kind = RequestRefused if 200 <= reply.status_code < 400 else class_for(reply.status_code)
        hint = "this is not a psuedoptimal service's answer: is the URL right, or is a proxy in between?"
        return kind(f"{where}: HTTP {reply.status_code} {text!r}", hint=hint, retry_after_s=wait_s)
    kind = class_for(reply.status_code, problem.code)
    detail = f"{where}: {problem.detail} (request {problem.request_id})"
    return kind(detail, hint=problem.hint, field=problem.field, retry_after_s=wait_s)


def _retry_after(text: str) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date; None if absent or unreadable."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
