"""The real process under more than it can take: mixed requests, tenfold overload, hang-ups, SIGTERM."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.hf import HfEngine, load_engine
from decoder_service.settings import DecoderSettings

pytestmark = pytest.mark.slow

WORDS = ["f", "(", "x", ")", "sum", "filter", "> 0", "words", "\n", "é", "<|im_end|>", "def total(numbers):"]


class Key(NamedTuple):
    """What a program may depend on."""

    message: str
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Answer(NamedTuple):
    """What a program must be."""

    text: str
    tokens: int
    finish_reason: str


def keys_of(chance: random.Random, count: int) -> list[Key]:
    """Half of them greedy, half with a seed of their own."""
    keys = []
    for number in range(count):
        message = " ".join(chance.choices(WORDS, k=chance.randint(0, 40))) + str(number)
        kind = chance.choice([(0.0, 1.0, 0), (0.0, 1.0, 0), (1.0, 1.0, number), (1.3, 0.8, number)])
        keys.append(Key(message, chance.choice([6, 12, 24]), *kind))
    return keys


def alone(engine: HfEngine, key: Key) -> Answer:
    """Return what the key gives in a batch of its own, in this process."""
    row = Row(key.message, engine.prepare([key.message])[0], key.seed)
    program = engine.decode([row], Decoding(key.max_new_tokens, key.temperature, key.top_p))[0]
    assert program is not None
    return Answer(program.text, program.tokens, program.finish_reason)


def answers(reply: httpx.Response) -> list[Answer]:
    return [Answer(p["text"], p["tokens"], p["finish_reason"]) for p in reply.json()["programs"]]


async def posted(client: httpx.AsyncClient, keys: list[Key], timeout_s: float = 120) -> httpx.Response | None:
    """Ask for keys of one decoding in one request; None where we hung up first."""
    first = keys[0]
    body = {"messages": [key.message for key in keys], **first._asdict()}
    del body["message"]
    try:
        return await client.post("/v1/decode", json=body, timeout=timeout_s)
    except httpx.TimeoutException:
        return None


def rss_mb(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def idle(service: Any, limit_s: float = 60) -> None:
    """Wait until nothing waits or runs."""
    deadline = time.monotonic() + limit_s
    while service.metric("decoder_queue_messages") or service.metric("decoder_queue_tokens"):
        assert time.monotonic() < deadline, "the queue does not empty"
        time.sleep(0.05)


def clients_of(service: Any) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=service.url, limits=limits, timeout=120, trust_env=False)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> HfEngine:
    return load_engine(DecoderSettings(model=str(model_dir)))


def test_of_a_thousand_mixed_requests_every_answer_is_the_one_computed_alone(
    start: Callable[..., Any], model_dir: Path, engine: HfEngine
) -> None:
    """Random neighbours, random hang-ups, greedy and seeded; no cache, so that every one is generated."""
    chance = random.Random(0)
    keys = keys_of(chance, 120)
    wanted = {key: alone(engine, key) for key in keys}
    alike: dict[tuple[Any, ...], list[Key]] = {}
    for key in keys:
        alike.setdefault(key[1:], []).append(key)
    requests = []
    for _ in range(1000):
        group = alike[chance.choice(keys)[1:]]
        asked = chance.sample(group, k=min(len(group), chance.randint(1, 4)))
        requests.append((asked, chance.choice([120.0] * 8 + [0.02, 0.1])))
    service = start(model=model_dir, cache_size=0)

    async def storm() -> list[httpx.Response | None]:
        turns = asyncio.Semaphore(48)
        async with clients_of(service) as client:

            async def one(asked: list[Key], timeout_s: float) -> httpx.Response | None:
                async with turns:
                    return await posted(client, asked, timeout_s)

            return await asyncio.gather(*(one(*request) for request in requests))

    replies = asyncio.run(storm())
    checked: Counter[Key] = Counter()
    for (asked, timeout_s), reply in zip(requests, replies, strict=True):
        if reply is None:
            assert timeout_s < 1, "only those who hung up may be without an answer"
            continue
        assert reply.status_code == 200, reply.text
        assert answers(reply) == [wanted[key] for key in asked]
        checked.update(asked)
    assert sum(reply is None for reply in replies) > 20
    assert sum(checked[key] > 1 for key in keys if key.temperature) > 20, (
        "seeded ones must have been repeated"
    )
    assert service.metric("decoder_batch_rows_sum") > 2 * service.metric("decoder_batch_rows_count")
    idle(service)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_tenfold_overload_and_storms_of_hang_ups_lose_nothing_and_leave_no_memory(
    start: Callable[..., Any], model_dir: Path, engine: HfEngine
) -> None:
    keys = [Key(f"m{n} " + "x " * (n % 30), 12) for n in range(60)]
    wanted = {key: alone(engine, key) for key in keys}
    service = start(model=model_dir, cache_size=0, queue_messages=12, max_batch=8)
    statuses: Counter[int] = Counter()

    async def ask(client: httpx.AsyncClient, key: Key) -> None:
        """As a client does: come back when told to, until there is an answer."""
        while True:
            reply = await posted(client, [key])
            assert reply is not None
            statuses[reply.status_code] += 1
            if reply.status_code == 200:
                assert answers(reply) == [wanted[key]]
                return
            assert reply.status_code == 429 and 1 <= int(reply.headers["retry-after"]) <= 60
            # Not as long as told: the service is to stay overloaded.
            await asyncio.sleep(0.2)

    async def wave(count: int) -> None:
        async with clients_of(service) as client:
            await asyncio.gather(*(ask(client, keys[n % len(keys)]) for n in range(count)))

    async def hang_ups(count: int) -> None:
        async with clients_of(service) as client:
            chance = random.Random(count)
            long = [Key(f"gone {n}", 300) for n in range(count)]
            found = await asyncio.gather(*(posted(client, [key], chance.uniform(0.01, 0.15)) for key in long))
            assert all(reply is None or reply.status_code in (200, 429) for reply in found)

    asyncio.run(wave(120))
    assert statuses[429] > 12, "it was never overloaded"
    idle(service)
    before = rss_mb(service.process.pid)
    for _ in range(2):
        asyncio.run(hang_ups(60))
        asyncio.run(wave(120))
    idle(service)
    assert set(statuses) == {200, 429} and statuses[200] == 3 * 120
    assert rss_mb(service.process.pid) < before + 40
    assert service.metric("decoder_failed_total") == 0
    assert service.client.get("/readyz").status_code == 200


def test_sigterm_under_load_answers_what_was_accepted_and_ends_with_0(
    start: Callable[..., Any], model_dir: Path, engine: HfEngine
) -> None:
    keys = [Key(f"last {n}", 24) for n in range(60)]
    wanted = {key: alone(engine, key) for key in keys}
    service = start(model=model_dir, cache_size=0, max_batch=8)

    async def storm() -> Counter[str]:
        found: Counter[str] = Counter()
        async with clients_of(service) as client:

            async def one(place: int, key: Key) -> None:
                # The second half comes while the service is ending.
                await asyncio.sleep(0 if place < 30 else 0.3 + 0.01 * (place - 30))
                try:
                    reply = await posted(client, [key])
                except (httpx.ConnectError, httpx.ReadError):
                    # Refused, or still in the kernel's queue when the listening socket was closed.
                    found["no connection"] += 1
                    return
                assert reply is not None
                found[str(reply.status_code)] += 1
                if reply.status_code == 200:
                    assert answers(reply) == [wanted[key]]
                else:
                    assert reply.status_code == 503 and reply.headers["retry-after"]

            calls = [asyncio.create_task(one(place, key)) for place, key in enumerate(keys)]
            deadline = time.monotonic() + 30
            while not (accepted := await asyncio.to_thread(service.metric, "decoder_queue_messages")):
                assert time.monotonic() < deadline
            found["accepted"] = int(accepted)
            service.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*calls)
        return found

    found = asyncio.run(storm())
    accepted = found.pop("accepted")
    assert found["200"] >= accepted > 0, "what was accepted before the signal must be answered"
    assert sum(found.values()) == 60
    assert service.process.wait(timeout=60) == 0
