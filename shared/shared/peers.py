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
from dataclasses import dataclass

import httpx

LOOK_UP_S = 5.0


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
        self._urls = [_checked(room, url) for url in urls]
        self._found: dict[str, list[Peer]] = {str(url): [Peer(_text(url))] for url in self._urls}
        self._looked_up = -LOOK_UP_S

    def all(self) -> list[Peer]:
        """Return the instances known now."""
        return [peer for peers in self._found.values() for peer in peers]

    async def look_up(self) -> None:
        """Ask for the addresses of names, if that was long ago. A name not found keeps what it had."""
        now = time.monotonic()
        if now - self._looked_up < LOOK_UP_S:
            return
        self._looked_up = now
        for url in self._urls:
            if url.scheme == "http" and not _is_address(url.host):
                self._take(url, await _addresses(url))

    def _take(self, url: httpx.URL, addresses: Sequence[str]) -> None:
        had = {peer.url: peer for peer in self._found[str(url)]}
        if len(addresses) > 1:
            host = url.netloc.decode("ascii")
            peers = [Peer(_text(url.copy_with(host=address)), host) for address in addresses]
        elif addresses:
            peers = [Peer(_text(url))]
        else:
            return
        self._found[str(url)] = [had.get(peer.url, peer) for peer in peers]


async def _addresses(url: httpx.URL) -> list[str]:
    """Return the addresses of a URL's host, of one family only: the other's would be the same instances."""
    port = url.port or 80
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
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


def _checked(room: str, address: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ValueError(f"{room}: {address!r}: {error}; use e.g. http://127.0.0.1:8001") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{room}: {address!r} is not an http URL; use e.g. http://127.0.0.1:8001")
    return url
