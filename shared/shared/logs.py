"""One line per event: JSON in containers, readable on a terminal. Untrusted text cannot forge a line.

Rooms write with `logging.getLogger(__name__)`; this formats what they write. The service's own token
is masked wherever it stands. Other secrets are not known here and must not be logged.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.settings import ServiceSettings

MAX_TEXT = 1000
MAX_TRACE = 10_000


def configure_logging(settings: ServiceSettings, service: str) -> None:
    """Send every logger of this process to stderr, in one format. For a process's entry only."""
    as_json = settings.log_json if settings.log_json is not None else not sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _Named(service),
        _Tamed(settings.secret()),
    ]
    last: Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Its start and stop lines repeat ours, without the address.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))


class _Named:
    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["service"] = self.service
        return event


class _Tamed:
    """Mask the token, escape control characters, cut long text. A traceback keeps its line breaks."""

    def __init__(self, secret: str | None) -> None:
        self.secret = secret

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = self._tame(value, is_trace=key == "exception")
            elif not key.startswith("_") and not isinstance(value, (int, float, type(None))):
                event[key] = self._tame(repr(value), is_trace=False)
        return event

    def _tame(self, text: str, *, is_trace: bool) -> str:
        if self.secret:
            text = text.replace(self.secret, "***")
        limit = MAX_TRACE if is_trace else MAX_TEXT
        # The end of a traceback says more than its beginning.
        if len(text) > limit:
            text = "…" + text[-limit:] if is_trace else text[:limit] + "…"
        keep = "\n" if is_trace else ""
        return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
