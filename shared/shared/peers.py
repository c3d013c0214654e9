"""The instances of one room: those that are given by URL, and those that one name stands for.

A name with several addresses (Compose's `--scale`, a headless service of Kubernetes) is as many instances.
It is looked up again every few seconds, so instances that come are used and those that go are forgotten. Only
for plain http: a certificate is for a name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from shared.resolver import resolving

LOOK_UP_S = 5.0
# A resolver answers in milliseconds; for one that does not, a call waits no longer and uses what is known.
MAX_LOOK_UP_S = 2.0


@dataclass(eq=False)
class Peer:
    """One instance of the room. `rested_at` is the time from which it is asked again before others.

    host      what the Host header must say where the URL has an address in place of it
    asked_at  when it was asked last
    """

    url: str
    host: str | None = None
    in_flight: int = 0
    rested_at: float = 0.0
    asked_at: float = 0.0


class Peers:
    """The instances in force. A Peer stays the same object as long as its instance is there."""

    def __init__(self, room: str, urls: Sequence[str]) -> None:
        """Start with one instance per URL. Raises ValueError for what is no http URL."""
        try:
            self._urls = [service_url(url) for url in urls]
        except ValueError as error:
            raise ValueError(f"{room}: {error}") from error
        self._found: dict[str, list[Peer]] = {str(url): [Peer(_text(url))] for url in self._urls}
        self._looked_up = -LOOK_UP_S

    def all(self) -> list[Peer]:
        """Return the instances known now."""
        return [peer for peers in self._found.values() for peer in peers]

    async def look_up(self, left_s: float = MAX_LOOK_UP_S) -> None:
        """Ask for the addresses of names, if that was long ago. A name not found keeps what it had; an answer
        that takes longer than left_s or MAX_LOOK_UP_S is used when it comes."""
        if time.monotonic() - self._looked_up < LOOK_UP_S:
            return
        # Now, so that others go on with what is known; and again at the end, since it may have taken long.
        self._looked_up = time.monotonic()
        limit_s = min(left_s, MAX_LOOK_UP_S)
        names = [url for url in self._urls if url.scheme == "http" and not _is_address(url.host)]
        try:
            await asyncio.gather(*(self._look_up(url, limit_s) for url in names))
        finally:
            self._looked_up = time.monotonic()

    async def _look_up(self, url: httpx.URL, limit_s: float) -> None:
        asked = resolving(url.host, url.port or 80, type=socket.SOCK_STREAM)
        asked.add_done_callback(partial(self._take, url))
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(asked), limit_s)

    def _take(self, url: httpx.URL, asked: Future[list[Any]]) -> None:
        addresses = [] if asked.exception() else _addresses(asked.result())
        had = {peer.url: peer for peer in self._found[str(url)]}
        if len(addresses) > 1:
            host = url.netloc.decode("ascii")
            peers = [Peer(_text(url.copy_with(host=address)), host) for address in addresses]
        elif addresses:
            peers = [Peer(_text(url))]
        else:
            return
        self._found[str(url)] = [had.get(peer.url, peer) for peer in peers]


def _addresses(found: Sequence[Any]) -> list[str]:
    """Return the addresses of one family only: the other's would be the same instances."""
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return sorted({str(address[0]) for kind, *_, address in found if kind == family})


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _text(url: httpx.URL) -> str:
    return str(url).rstrip("/")


def service_url(address: str) -> httpx.URL:
    """Return a service's address as a URL. Raises ValueError if nobody can ever be asked there."""
    try:
        url = httpx.URL(address)
        url.host.encode("idna")  # what a resolver does first
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{address!r}: {error}; use e.g. http://127.0.0.1:8001") from error
    if url.scheme not in ("http", "https") or not url.host or not 0 <= (url.port or 0) <= 65535:
        raise ValueError(
            f"{address!r} is not an http URL with a host and a port up to 65535; use e.g. http://127.0.0.1:8001"
        )
    return url
