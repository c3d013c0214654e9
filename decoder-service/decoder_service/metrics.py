"""The decoder's own numbers for /metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from decoder_service.engines.engine import DeviceMemory
from shared.errors import RoomError
from shared.wire import Program

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one app, in its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.generated = Counter("decoder_generated", "programs the engine generated", registry=registry)
        self.not_generated = Counter(
            "decoder_not_generated",
            "messages answered by the cache or by an equal message",
            registry=registry,
        )
        self.failed = Counter("decoder_failed", "messages the engine failed on", registry=registry)
        self.tokens = Counter("decoder_tokens", "tokens the engine generated", registry=registry)
        self.rows = Histogram(
            "decoder_batch_rows",
            "messages in the batch each time some join",
            buckets=_ROWS,
            registry=registry,
        )
        self.abandoned = Counter(
            "decoder_abandoned", "messages let go while they ran, since nobody waited", registry=registry
        )
        self._queue = Gauge("decoder_queue_messages", "messages waiting or running", registry=registry)
        self._queue_tokens = Gauge("decoder_queue_tokens", "tokens waiting or running", registry=registry)
        self.vectors = Counter("decoder_latent_tokens", "tokens of latent requests", registry=registry)
        self._vector_seconds = Histogram(
            "decoder_latent_seconds", "seconds per latent request", buckets=_SECONDS, registry=registry
        )

    def watch_queue(self, messages: Callable[[], float], tokens: Callable[[], float]) -> None:
        """Ask both whenever the metrics are read."""
        self._queue.set_function(messages)
        self._queue_tokens.set_function(tokens)

    def watch_memory(self, memory: Callable[[], DeviceMemory | None]) -> None:
        """Ask whenever the metrics are read, where the engine has GPUs; elsewhere there is no such metric."""
        if memory() is None:
            return
        gauge = Gauge(
            "decoder_gpu_memory_bytes", "memory of the model's GPUs", ["kind"], registry=self._registry
        )

        def asked(place: int) -> float:
            now = memory()
            return float(now[place]) if now else 0.0

        gauge.labels("allocated").set_function(lambda: asked(0))
        gauge.labels("reserved").set_function(lambda: asked(1))

    def alone(self, tokens: int, seconds: float) -> None:
        """Record one latent request, its time in the queue included."""
        self.vectors.inc(tokens)
        self._vector_seconds.observe(seconds)

    def ended(self, results: Sequence[Program | RoomError | None]) -> None:
        """Record rows that have ended; None is a message that was let go."""
        programs = [result for result in results if isinstance(result, Program)]
        self.generated.inc(len(programs))
        self.abandoned.inc(sum(result is None for result in results))
        self.failed.inc(sum(isinstance(result, RoomError) for result in results))
        self.tokens.inc(sum(program.tokens for program in programs))
