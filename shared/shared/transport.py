"""HTTP to one room with several instances: pooling, retries until a deadline, least requests in flight.

It knows nothing of programs or verdicts: clients.py does. It never turns an outage into an answer:
after the deadline the last typed error is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import httpx

from shared.errors import (
    Broken,
    DeadlineExceeded,
    NoAnswer,
    RoomError,
    Unavailable,
)
from shared.peers import Peer, Peers
from shared.replies import error_of
from shared.resolver import Loop
from shared.wire import Wire

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S = 5.0
COOL_DOWN_S = 5.0
# Back-off between attempts: 0.1, 0.2, ... 2 s, each shortened at random by up to a half, so that
# many clients do not come back in step.
FIRST_WAIT_S, MAX_WAIT_S = 0.1, 2.0
# A caller that waits longer than this is told so, and again each time it has passed.
TELL_S = 15.0
# A server drops idle connections after 75 s; leaving first avoids losing a request to that.
KEEP_ALIVE_S = 30.0

_TAGS: ContextVar[dict[str, str]] = ContextVar("tags", default={})  # noqa: B039 - never mutated
_OPENED: ContextVar[list[httpx.AsyncClient] | None] = ContextVar("opened", default=None)
_BEGAN: ContextVar[float | None] = ContextVar("began", default=None)


@contextlib.contextmanager
def tagged(*, run: str = "", step: int | None = None) -> Iterator[None]:
    """Send run and step along with every request made inside, for the services' log lines."""
    tags = dict(_TAGS.get())
    if run:
        tags["X-Run"] = "".join(letter if "!" <= letter <= "~" else "_" for letter in run[:100])
    if step is not None:
        tags["X-Step"] = str(step)
    token = _TAGS.set(tags)
    try:
        yield
    finally:
        _TAGS.reset(token)


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from sync code, and close the connections it opened.

    raises  RuntimeError inside a running event loop: await it there
    """

    async def closing() -> T:
        opened: list[httpx.AsyncClient] = []
        _OPENED.set(opened)
        try:
            return await coro
        finally:
            for client in opened:
                await client.aclose()

    with contextlib.closing(asyncio.Runner(loop_factory=Loop)) as runner:
        return runner.run(closing())


@contextlib.contextmanager
def one_call() -> Iterator[None]:
    """What is asked inside, and in the tasks begun inside, has one deadline: it counts from here."""
    token = _BEGAN.set(time.monotonic())
    try:
        yield
    finally:
        _BEGAN.reset(token)


class _Unreachable(Unavailable):
    """Nothing listens there, as far as can be seen from here."""


class Transport:
    """The peers of one room, and one connection pool for each event loop it is used from."""

    def __init__(
        self, room: str, urls: str | Sequence[str], *, token: str | None, deadline_s: float,
        attempt_s: float, max_connections: int, unreachable_s: float | None = None,
    ) -> None:  # fmt: skip
        addresses = [urls] if isinstance(urls, str) else list(urls)
        if not addresses or deadline_s <= 0 or attempt_s <= 0:
            raise ValueError(f"{room}: needs a URL and times above 0, got {addresses}, {deadline_s=}")
        if token is not None and not all("!" <= letter <= "~" for letter in token):
            raise ValueError(
                f"{room}: the token may hold visible ASCII letters only; strip blanks and line ends"
            )
        self.room, self.deadline_s, self.attempt_s = room, deadline_s, attempt_s
        self._reach_s = deadline_s if unreachable_s is None else min(unreachable_s, deadline_s)
        self._peers = Peers(room, addresses)
        self.requests = 0
        self.retries = 0
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections,
            keepalive_expiry=KEEP_ALIVE_S,
        )  # fmt: skip
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient]
        self._clients = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def peers(self) -> list[Peer]:
        """The instances known now."""
        return self._peers.all()

    async def look_up(self) -> int:
        """Find the instances that names stand for, if that was long ago; return how many there are."""
        await self._peers.look_up(self.deadline_s)
        return len(self.peers)

    async def ask(self, method: str, path: str, body: Wire | None, read: Callable[[bytes], T]) -> T:
        """Send until there is an answer or the deadline has come; `read` raises Broken on a malformed one.

        raises  RequestRefused as soon as a peer says so; else the last NoAnswer, leaving out that of an
                attempt which the deadline cut too short to tell anything
        """
        told = time.monotonic()
        start = _BEGAN.get() or told
        end = start + self.deadline_s
        content = body.model_dump_json().encode() if body is not None else None
        headers = {**self._headers, **_TAGS.get(), "X-Request-ID": uuid.uuid4().hex}
        failed: set[Peer] = set()
        rounds = 0
        known: NoAnswer | None = None
        while True:
            await self._peers.look_up(end - time.monotonic())
            peer = self._take(failed)
            left = end - time.monotonic()
            try:
                answer = read(await self._attempt(peer, method, path, content, headers, left))
                peer.rested_at = 0.0
                return answer
            except NoAnswer as error:
                cut_short = isinstance(error, DeadlineExceeded) and left < min(CONNECT_S, self.attempt_s)
                if known is None or not cut_short:
                    known = error
                now = time.monotonic()
                peer.rested_at = now + (COOL_DOWN_S if error.retry_after_s is None else error.retry_after_s)
                failed.add(peer)
                pause = 0.0
                if not any(other.rested_at <= now and other not in failed for other in self.peers):
                    pause, rounds = self._pause(error, rounds), rounds + 1
                    failed.clear()
                last = start + self._reach_s if isinstance(error, _Unreachable) else end
                if now + pause >= last:
                    raise known from known.__cause__
                if now - told >= TELL_S:
                    logger.warning("asked again for up to %.0f s more: %s", last - now, error)
                    told = now
            finally:
                self._give_back(peer)
            self.retries += 1
            await asyncio.sleep(pause)

    async def probe(self, path: str) -> bool:
        """Whether any peer answers `path` with 200, asked once and all at a time."""

        async def one(peer: Peer) -> bool:
            try:
                await self._attempt(peer, "GET", path, None, self._headers, CONNECT_S)
            except RoomError:
                return False
            return True

        await self._peers.look_up()
        return any(await asyncio.gather(*(one(peer) for peer in self.peers)))

    async def aclose(self) -> None:
        """Close the connections of the running loop. Those of another loop close when it is gone."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _take(self, failed: set[Peer]) -> Peer:
        """The peer with the least requests in flight, of these the one not asked for longest; one that
        failed lately only if all have."""
        with self._lock:
            now = time.monotonic()
            peers = self.peers
            fresh = [peer for peer in peers if peer.rested_at <= now and peer not in failed]
            if fresh:
                peer = min(fresh, key=lambda each: (each.in_flight, each.asked_at, random.random()))
            else:
                peer = min(peers, key=lambda each: (each in failed, each.rested_at, each.in_flight))
            peer.in_flight, peer.asked_at = peer.in_flight + 1, now
            self.requests += 1
            return peer

    def _give_back(self, peer: Peer) -> None:
        with self._lock:
            peer.in_flight -= 1

    @staticmethod
    def _pause(error: NoAnswer, rounds: int) -> float:
        backoff: float = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**rounds) * random.uniform(0.5, 1.0)
        # What the server asked for is a lower bound: spread upwards only.
        return max(backoff, (error.retry_after_s or 0.0) * random.uniform(1.0, 1.1))

    async def _attempt(
        self,
        peer: Peer,
        method: str,
        path: str,
        content: bytes | None,
        headers: dict[str, str],
        left_s: float,
    ) -> bytes:
        """One request to one peer, its whole answer within min(attempt_s, left_s)."""
        limit_s = min(self.attempt_s, max(left_s, 0.001))
        sent = {**headers, "Content-Type": "application/json"} if content is not None else headers
        sent = {**sent, "Host": peer.host} if peer.host else sent
        where = f"{self.room} at {peer.url}"
        try:
            request = self._client().request(method, peer.url + path, content=content, headers=sent)
            # httpx's timeouts are per read; only this one also bounds a peer that answers drop by drop.
            reply = await asyncio.wait_for(request, limit_s)
        except (asyncio.TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
            hint = "it may be overloaded or hung; raise the deadline if its work takes longer"
            raise DeadlineExceeded(f"{where}: no answer to {path} in {limit_s:.1f} s", hint=hint) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            hint = f"start it (`psuedoptimal serve {self.room}`) or correct the URL"
            detail = f"{where}: not reachable ({error or type(error).__name__})"
            raise _Unreachable(detail, hint=hint) from error
        except httpx.TransportError as error:
            detail = f"{where}: the connection was lost ({error or type(error).__name__})"
            raise Unavailable(detail, hint="it may have been stopped; it is asked again") from error
        except httpx.DecodingError as error:
            raise Broken(f"{where}: unreadable answer ({error})", hint="is this the right URL?") from error
        if reply.status_code == 200:
            return reply.content
        raise error_of(where, reply)

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            timeout = httpx.Timeout(self.attempt_s, connect=min(CONNECT_S, self.attempt_s))
            # trust_env off: a proxy variable must not carry programs out of this machine.
            client = httpx.AsyncClient(
                limits=self._limits, timeout=timeout, trust_env=False, verify=certificates()
            )  # fmt: skip
            self._clients[loop] = client
            opened = _OPENED.get()
            if opened is not None:
                opened.append(client)
        return client


@cache
def certificates() -> ssl.SSLContext:
    """Return what every client of ours checks a server by. To read them takes 22 ms."""
    return httpx.create_ssl_context(trust_env=False)
