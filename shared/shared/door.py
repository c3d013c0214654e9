"""The door every request passes: id, token, size, drain, metrics, one log line, and the last catch.

It is plain ASGI, so that it holds for every route, for the docs and for streams alike.
It does not limit how many requests run at a time (each service has its own queue), nor how slowly
a client may send: that is for the reverse proxy in front.
"""

from __future__ import annotations

import hmac
import logging
import time
import uuid
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import Broken, RequestRefused, RoomError, TooLarge, Unauthorized, Unavailable
from shared.problems import problem_response, record, shorten
from shared.settings import ServiceSettings, is_loopback

log = logging.getLogger(__name__)

PROBES = frozenset({"/healthz", "/readyz"})
QUIET = PROBES | {"/metrics"}
# The API's description is the same for everybody and in the source; the page needs it before it has a token.
OPEN = PROBES | {"/openapi.json", "/docs"}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
MAX_ID = 100


@dataclass
class Traffic:
    """What the server must know to drain: requests at work, probes not counted, and whether it closes."""

    in_flight: int = 0
    draining: bool = False


class Door:
    """ASGI middleware around the whole app."""

    def __init__(
        self, app: ASGIApp, *, settings: ServiceSettings, registry: CollectorRegistry, traffic: Traffic
    ) -> None:
        self.app, self.traffic = app, traffic
        self.limit = settings.max_body_mb * 1024 * 1024
        self.limit_name = f"{settings.prefix()}MAX_BODY_MB={settings.max_body_mb}"
        secret = settings.secret()
        self.secret = secret.encode() if secret else None
        self.requests = Counter(
            "http_requests", "requests answered", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "http_request_duration_seconds", "seconds to the last byte of the answer",
            ["method", "route"], buckets=BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.gauge = Gauge(
            "http_requests_in_flight", "requests at work, probes not counted", registry=registry
        )
        self.gauge.set_function(lambda: float(traffic.in_flight))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        tags = {"request_id": _identifier(headers.get("x-request-id")) or uuid.uuid4().hex}
        for tag, header in (("run", "x-run"), ("step", "x-step")):
            if value := _identifier(headers.get(header)):
                tags[tag] = value
        reply = _Reply(send, tags["request_id"])
        work = scope["path"] not in QUIET
        self.traffic.in_flight += work
        started = time.perf_counter()
        try:
            with structlog.contextvars.bound_contextvars(**tags):
                try:
                    await self._pass(scope, headers, receive, reply)
                finally:
                    self._record(scope, reply, time.perf_counter() - started)
        finally:
            self.traffic.in_flight -= work

    async def _pass(self, scope: Scope, headers: Headers, receive: Receive, reply: _Reply) -> None:
        try:
            self._admit(scope, headers)
            await self.app(scope, _Bounded(receive, self.limit, self.limit_name), reply)
        except ClientDisconnect:
            reply.status = reply.status or 499
        except RoomError as error:
            if reply.status:
                raise
            record(error)
            await problem_response(error)(scope, receive, reply)
        except Exception as error:
            # The process's edge: a bug must become a 500, not a lost connection.
            log.exception("unhandled %s", type(error).__name__)
            if reply.status:
                raise
            broken = Broken(
                f"the service failed on {scope['method']} {shorten(scope['path'])}",
                hint="repeat the request; if it fails again, look for its request_id in the service's log",
            )
            await problem_response(broken)(scope, receive, reply)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise unless the request may go on: token or loopback name, not draining, not too large."""
        path = scope["path"]
        is_open = path in OPEN or path.startswith("/docs/")
        if self.secret is None:
            _check_host(headers.get("host", ""))
        elif not is_open:
            self._check_token(headers.get("authorization", ""))
        if self.traffic.draining and path not in QUIET:
            raise Unavailable("the service is draining", hint="send it to another instance", retry_after_s=1)
        if int(headers.get("content-length") or 0) > self.limit:
            raise _too_large(int(headers["content-length"]), self.limit, self.limit_name)

    def _check_token(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        assert self.secret is not None
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.secret):
            return
        detail = "the bearer token is wrong" if given else "there is no bearer token"
        raise Unauthorized(detail, hint="send `Authorization: Bearer TOKEN`", field="Authorization")

    def _record(self, scope: Scope, reply: _Reply, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        # The template, not the path: a path is the client's choice and would make endless series.
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        status = reply.status or 499
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        fields = {"method": method, "path": shorten(scope["path"]), "status": status}
        log.log(level, "request", extra={**fields, "wall_ms": round(seconds * 1000, 1)})


class _Reply:
    """`send`, remembering the status and adding the request's id."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.send, self.id, self.status = send, request_id.encode(), 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id)]
            message = {**message, "headers": headers}
        await self.send(message)


class _Bounded:
    """`receive`, counting: a chunked body names no length, so its bytes are counted as they come."""

    def __init__(self, receive: Receive, limit: int, name: str) -> None:
        self.receive, self.limit, self.name, self.seen = receive, limit, name, 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.limit:
            raise _too_large(self.seen, self.limit, self.name)
        return message


def _too_large(seen: int, limit: int, name: str) -> TooLarge:
    return TooLarge(
        f"the body has at least {seen} bytes, the limit is {limit}",
        hint=f"send fewer items per request, or raise the service's {name}",
        field="body",
    )


def _check_host(host: str) -> None:
    """Refuse a Host that is not this machine: without a token, a web page that resolves its own name to
    127.0.0.1 (DNS rebinding) could otherwise use the service through the user's browser."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if not is_loopback(name):
        raise RequestRefused(
            f"Host {shorten(host)!r} is not this machine, and the service has no token",
            hint="use localhost or 127.0.0.1 in the URL, or give the service a token",
            field="Host",
        )


def _identifier(text: str | None) -> str:
    """Return `text` if it can stand in logs and headers as it is, else "" (a fresh one is made)."""
    return text if text and len(text) <= MAX_ID and all(" " < letter <= "~" for letter in text) else ""
