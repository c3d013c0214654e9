"""An event loop for code that is not async. It knows nothing of what runs in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from decoder_service.refusals import stopped
from shared.resolver import Loop

R = TypeVar("R")


class LoopThread:
    """A thread that runs a loop until it is closed. Not for use from inside that loop.

    last   awaited there in the end, when all else was cancelled
    """

    def __init__(self, last: Callable[[], Awaitable[None]]) -> None:
        self._last = last
        self._end = asyncio.Event()
        begun: Future[asyncio.AbstractEventLoop] = Future()
        threading.Thread(target=self._serve, args=(begun,), name="remote", daemon=True).start()
        self._loop = begun.result()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine to its end.

        raises   what it raises, and Unavailable where `close` came first
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise stopped() from None

    def close(self) -> None:
        """Cancel what runs, and end; not waited for."""
        self._loop.call_soon_threadsafe(self._end.set)

    def _serve(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(self._until_closed(begun))

    async def _until_closed(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        begun.set_result(asyncio.get_running_loop())
        await self._end.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._last()
