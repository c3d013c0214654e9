"""A port for a service that somebody else starts in a moment."""

from __future__ import annotations

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, USUAL = 20_000, 32_768
TRIES = 100


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of `host` that nobody listens on, which no outgoing connection can take either.

    The kernel gives outgoing connections ports of one range, and port 0 is answered from the same: such a
    port may be a client's before the service binds it. So one below that range is drawn. If another service
    takes it first, the one that comes second says so and ends.
    """
    try:
        below = int(RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        below = USUAL
    for _ in range(TRIES if below > LOWEST else 0):
        with socket.socket() as probe:
            try:
                probe.bind((host, random.SystemRandom().randrange(LOWEST, below)))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
