"""What stands before the pages: headers that bind the browser, and a cookie in place of the bearer token.

It does not replace the door of `shared.service`, which still checks every request's token or host name. The
cookie does not hold the token, and is worth nothing once the token is another.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
COOKIE, KEPT_S = "playground_session", 30 * 86_400
MAX_LOGIN_BYTES = 4_096


class Bound:
    """ASGI middleware: every answer but those of /docs, which has a policy of its own, carries HEADERS."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def bound(message: Message) -> None:
            if message["type"] == "http.response.start" and not scope["path"].startswith("/docs"):
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, bound if scope["type"] == "http" else send)


class Session:
    """ASGI middleware: a browser that has shown the token once is let in by its cookie.

    login  draws the page that asks for the token; told whether a wrong one was given
    """

    def __init__(self, app: ASGIApp, *, secret: str, login: Callable[[bool], str]) -> None:
        self.app, self.secret, self.login = app, secret, login
        self.value = hmac.new(secret.encode(), b"playground session", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)
        if path == "/login":
            response = await self._login(Request(scope, receive))
            await response(scope, receive, send)
        elif "authorization" in headers or not (self._known(headers) or path.startswith("/assets/")):
            if "authorization" not in headers and scope["method"] == "GET" and wants_page(headers):
                # Only a path of this server, so that the way back leads nowhere else.
                after = quote(path) if not path.startswith("//") else "/"
                await RedirectResponse(f"/login?next={after}", 303)(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        else:
            given = (b"authorization", f"Bearer {self.secret}".encode())
            await self.app({**scope, "headers": [*scope["headers"], given]}, receive, send)

    def _known(self, headers: Headers) -> bool:
        # One by one: another's cookie that cannot be parsed must not take ours with it.
        found = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        given = [value.encode() for name, _, value in found if name == COOKIE]
        return any(hmac.compare_digest(value, self.value.encode()) for value in given)

    async def _login(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(self.login(False))
        # A refusal is a part of the page: a browser logs an error for a status over 399.
        shown = wants_page(request.headers)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_LOGIN_BYTES:
                return HTMLResponse(self.login(True), 200 if shown else 413)
        form = parse_qs(body.decode("utf-8", "replace"))
        if not hmac.compare_digest(form.get("token", [""])[0].strip().encode(), self.secret.encode()):
            return HTMLResponse(self.login(True), 200 if shown else 401)
        after = request.query_params.get("next", "/")
        response = RedirectResponse(after if after.startswith("/") and after[1:2] not in "/\\" else "/", 303)
        response.set_cookie(
            COOKIE, self.value, max_age=KEPT_S, httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response


def wants_page(headers: Headers) -> bool:
    """Return whether a person's browser asks, not a program."""
    return "text/html" in headers.get("accept", "")


def came_from_elsewhere(headers: Headers) -> bool:
    """Return whether another site's page made the browser send this request."""
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
