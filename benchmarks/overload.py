"""What ten times too much work does to the sandbox: refusals at once, and no harm to what was let in.

    python benchmarks/overload.py                                # a minute by bubblewrap
    python benchmarks/overload.py --jail gvisor --seconds 60

Three parts, on one service whose queue may hold SANDBOX_QUEUE_SECONDS of work: how many verdicts a second it
gives; the latency of what is let in while clients keep the queue full; the same while requests come at ten
times the rate it can do, each sent once at a random moment (Poisson) and dropped where it is refused. Exit
status 1 where an answer is neither verdicts nor 429, a verdict is wrong, or the admitted requests' 99th
percentile is more than twice the one of the full queue. The clients run on the same cores as the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from serving import percentiles, service

BATCH = 8
PROGRAM = {"program": "def f(x):\n    return sorted(x)[0] + {n}", "tests": ["assert f([3, 1]) == {n} + 1"]}


@dataclass
class Heard:
    """What came back: how many answers of each status, the milliseconds of those with verdicts."""

    statuses: Counter[int] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    wrong: int = 0
    hints: set[int] = field(default_factory=set)


class Caller:
    """One connection that is kept, over asyncio streams: hundreds of them cost little."""

    def __init__(self, url: str, heard: Heard) -> None:
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port, self.heard = int(port), heard
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, body: bytes) -> int:
        """Post one batch; return its status."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.streams
        began = time.perf_counter()
        writer.write(
            b"POST /v1/judge HTTP/1.1\r\nHost: %b:%d\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (self.host.encode(), self.port, len(body)) + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status, headers = int(head.split(None, 2)[1]), dict(
            line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
        )  # fmt: skip
        text = await reader.readexactly(int(headers[b"content-length"]))
        self.heard.statuses[status] += 1
        if status == 200:
            self.heard.times.append((time.perf_counter() - began) * 1e3)
            verdicts: list[dict[str, Any]] = json.loads(text)["verdicts"]
            self.heard.wrong += sum(one["outcome"] != "passed" for one in verdicts)
        elif status == 429:
            self.heard.hints.add(int(headers[b"retry-after"]))
        return status

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()


def body() -> bytes:
    """A batch of programs of its own, so that nothing but the tests' plans can be kept."""
    n = random.randrange(1000)
    return json.dumps({"jobs": [
        {key: json.loads(json.dumps(value).replace("{n}", str(n + at))) for key, value in PROGRAM.items()}
        for at in range(BATCH)
    ]}).encode()  # fmt: skip


async def closed(url: str, clients: int, seconds: float) -> Heard:
    """Let each client send its next batch as soon as the last is answered."""
    heard, end = Heard(), time.monotonic() + seconds

    async def client() -> None:
        caller = Caller(url, heard)
        while time.monotonic() < end:
            if await caller.call(body()) == 429:
                await asyncio.sleep(0.2)
        caller.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return heard


async def opened(url: str, rate: float, seconds: float) -> tuple[Heard, float]:
    """Send `rate` batches a second whatever becomes of them; return also the rate that was reached."""
    heard, idle, tasks = Heard(), [], set()
    began = following = time.monotonic()

    async def one() -> None:
        caller = idle.pop() if idle else Caller(url, heard)
        await caller.call(body())
        idle.append(caller)

    sent = 0
    while following < began + seconds:
        following += random.expovariate(rate)
        await asyncio.sleep(max(0.0, following - time.monotonic()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        sent += 1
    took = time.monotonic() - began
    await asyncio.gather(*tasks)
    for caller in idle:
        caller.close()
    return heard, sent / took


def said(name: str, heard: Heard) -> float:
    """Print one part; return the 99th percentile of what was let in."""
    if not heard.times:
        raise SystemExit(f"{name}: nothing was let in: {dict(heard.statuses)}")
    p50, p99 = percentiles(heard.times)
    counts = ", ".join(f"{count} times {status}" for status, count in sorted(heard.statuses.items()))
    print(f"{name}: {counts}; admitted p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return p99


async def measure(url: str, options: argparse.Namespace) -> list[str]:
    """Do the three parts; return what does not hold."""
    part = max(1.5, options.seconds / 6)
    await closed(url, 2, part / 2)
    calibration = await closed(url, 2 * options.lanes, part)
    rate = len(calibration.times) * BATCH / part
    print(
        f"{rate:.0f} verdicts/s with {2 * options.lanes} clients, {BATCH} jobs a request, jail {options.jail}"
    )
    clients = max(2, round(0.8 * rate * options.queue / BATCH))
    full = await closed(url, clients, part)
    nominal = said(f"queue full ({clients} clients)", full)
    over, reached = await opened(url, options.factor * rate / BATCH, options.seconds)
    print(
        f"{reached * BATCH:.0f} jobs/s offered for {options.seconds:g} s: "
        f"{reached * BATCH / rate:.1f} times as many"
    )
    p99 = said("overload", over)
    print(
        f"admitted p99 in overload / with a full queue: {p99 / nominal:.2f}; "
        f"Retry-After {sorted(over.hints)} s"
    )
    faults = [
        f"{count} answers {status}"
        for status, count in (full.statuses + over.statuses).items()
        if status not in (200, 429)
    ]
    faults += [f"{one.wrong} wrong verdicts" for one in (full, over) if one.wrong]
    faults += [] if p99 <= 2 * nominal else [f"p99 {p99:.0f} ms against {nominal:.0f} ms"]
    faults += (
        [] if over.statuses[429] > over.statuses[200] else ["too little was refused: this was no overload"]
    )
    return faults  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jail", default="bwrap")
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--queue", type=float, default=1.0, help="SANDBOX_QUEUE_SECONDS of the service")
    options = parser.parse_args()
    with service(options.jail, options.lanes, SANDBOX_QUEUE_SECONDS=str(options.queue)) as served:
        faults = asyncio.run(measure(served.url, options))
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
