"""Run folders as Prometheus metrics: the last line of each metrics.jsonl that was written to lately.

    python run_metrics.py RUNS [PORT]

Reads only. It has no token and needs none: it sits on an inner network, and what it tells are figures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

PORT = 9100
LATELY_S = 24 * 3600
TAIL_BYTES = 65_536


class Runs(Collector):
    """Gauges of every run below a folder, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give run_step{run} and run_value{run, name}; name as in metrics.jsonl (time/step_s, ...)."""
        steps = GaugeMetricFamily("run_step", "last step of a run", labels=["run"])
        values = GaugeMetricFamily("run_value", "figures of a run's last step", labels=["run", "name"])
        for path in sorted(self.folder.glob("*/metrics.jsonl")):
            if time.time() - path.stat().st_mtime < LATELY_S:
                for name, value in last_line(path).items():
                    if name == "step":
                        steps.add_metric([path.parent.name], value)
                    elif isinstance(value, int | float):
                        values.add_metric([path.parent.name, name], value)
        yield steps
        yield values


def last_line(path: Path) -> dict[str, float]:
    """Return the last whole line of a .jsonl file; an empty object if there is none yet."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = [line for line in file if line.endswith(b"\n")]
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    """Serve until the process is ended."""
    registry = CollectorRegistry()
    registry.register(Runs(Path(sys.argv[1])))
    start_http_server(int(sys.argv[2]) if len(sys.argv) > 2 else PORT, registry=registry)
    Event().wait()


if __name__ == "__main__":
    main()
