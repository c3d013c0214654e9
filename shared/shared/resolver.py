"""Looking up names where a resolver that does not answer holds nothing up. It knows nothing of rooms."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any


def resolving(host: Any, port: Any, **options: Any) -> Future[list[Any]]:
    """Ask socket.getaddrinfo in a thread that neither a loop's end nor the process's waits for.

    returns  what becomes its answer, or its OSError; it cannot be cancelled
    """
    found: Future[list[Any]] = Future()
    found.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, **options))
        except (OSError, UnicodeError) as error:
            found.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return found


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose end waits for no look-up: the standard one's waits for all that were begun."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        """Return what socket.getaddrinfo does."""
        asked = resolving(host, port, family=family, type=type, proto=proto, flags=flags)
        return await asyncio.wrap_future(asked)
