"""Sockets and signals: bind with a readable refusal, run, drain on SIGTERM, and leave with an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.door import Traffic
from shared.errors import RequestRefused
from shared.logs import configure_logging
from shared.problems import problem_response
from shared.settings import ServiceSettings

log = logging.getLogger(__name__)

# What the clean-up after the last request may take, and what follows it: a thread that loads a model, or is
# stuck in native code, would hold the exit.
CLEAN_UP_S = 10.0
KEEP_ALIVE_S = 75
SAME_SIGNAL_S = 0.2


class _Protocol(H11Protocol):
    """HTTP/1.1, answering what is no HTTP with a problem too; uvicorn would answer with plain text."""

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            hint = "use an HTTP client; a header may have 64 kB, and a URL no blanks"
            reply = problem_response(RequestRefused("this is no HTTP/1.1 request", hint=hint))
            headers = [*reply.raw_headers, (b"connection", b"close")]
            parts = (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(reply.body)),
                h11.EndOfMessage(),
            )
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn that keeps answering while it drains, so that /readyz can say so, and then leaves with 0."""

    def __init__(self, app: FastAPI, settings: ServiceSettings) -> None:
        config = uvicorn.Config(
            app, host=settings.host, port=settings.port, log_config=None, access_log=False, ws="none",
            http=_Protocol,
            lifespan="on", server_header=False, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=1,
        )  # fmt: skip
        super().__init__(config)
        self.app = app
        self.traffic: Traffic = app.state.traffic
        self.drain_s = settings.drain_s
        self._signalled = 0.0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the signal again at the end: a drained service exits with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: leave at once.

        A parent that dies with several threads sends its death signal once for each: those are one.
        """
        now = time.monotonic()
        if self.should_exit and now - self._signalled > SAME_SIGNAL_S:
            self.force_exit = True
        self.should_exit, self._signalled = True, now

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and say where: with port 0 nobody could know."""
        await super().startup(sockets=sockets)
        for listener in (each for server in self.servers for each in server.sockets):
            host, port = listener.getsockname()[:2]
            log.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.traffic.draining = True
        end = time.monotonic() + self.drain_s
        log.info("draining", extra={"in_flight": self.traffic.in_flight, "drain_s": self.drain_s})
        while self.traffic.in_flight and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        if self.traffic.in_flight:
            log.warning("requests cut off", extra={"in_flight": self.traffic.in_flight})
            self._leave_anyway()
        await super().shutdown(sockets)
        self._leave_anyway()

    def _leave_anyway(self) -> None:
        """End the process after CLEAN_UP_S, whichever thread Python would still wait for."""
        if threading.current_thread() is threading.main_thread():
            timer = threading.Timer(CLEAN_UP_S, lambda: os._exit(_exit_code(self.app)))
            timer.daemon = True
            timer.start()


def serve(app: FastAPI, settings: ServiceSettings) -> int:
    """Listen and work until SIGTERM or Ctrl-C, then drain.

    On the main thread the process ends soon after, with that code, whatever its threads still do.

    returns  0 after a drain, 1 when the start failed, 2 when a setting was wrong (port taken, bad host).
             A RoomError of the lifespan, or one the app put on app.state.startup_error, decides between them
    """
    configure_logging(settings, app.title)
    try:
        listener = _listen(settings)
    except OSError as error:
        print(_refusal(settings, error), file=sys.stderr)
        return 2
    with listener:
        log.info("starting", extra={"pid": os.getpid()})
        logging.getLogger("uvicorn.error").addFilter(lambda record: not _is_told(app, record))
        try:
            Server(app, settings).run(sockets=[listener])
        except SystemExit:
            return _failed_start(app)
        except OSError as error:
            # Another process bound the same port in the same moment and listened first.
            print(_refusal(settings, error), file=sys.stderr)
            return 2
    # A service that finds out later that it cannot work (a model that does not load) puts the error there.
    return _failed_start(app) if app.state.startup_error else 0


def _is_told(app: FastAPI, record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is about a failed start that `_failed_start` says better."""
    text = record.getMessage()
    return app.state.startup_error is not None and (text.startswith("Traceback") or "startup failed" in text)


def _failed_start(app: FastAPI) -> int:
    error = app.state.startup_error
    print(f"{app.title} did not start: {error or 'see the log above'}", file=sys.stderr)
    return _exit_code(app) or 1


def _exit_code(app: FastAPI) -> int:
    error = app.state.startup_error
    if error is None:
        return 0
    return 2 if isinstance(error, RequestRefused) else 1


def _listen(settings: ServiceSettings) -> socket.socket:
    """Bind before anything is loaded: a taken port must not cost a model's loading time."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now, not when uvicorn is up, would let clients hang while a model loads.
        return listener
    except OSError:
        listener.close()
        raise


def _refusal(settings: ServiceSettings, error: OSError) -> str:
    prefix, reason = settings.prefix(), (error.strerror or str(error)).lower()
    if isinstance(error, socket.gaierror) or (not isinstance(error, PermissionError) and "assign" in reason):
        return f"{prefix}HOST={settings.host!r}: {reason}; set {prefix}HOST to an address of this machine"
    return (
        f"{prefix}PORT={settings.port}: {reason} on {settings.host}; stop what listens there, "
        f"or set {prefix}PORT to another port (0 takes a free one)"
    )
