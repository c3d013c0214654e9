"""What waits: nothing for ever, whatever keeps coming."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from decoder_service.batching import Batcher
from decoder_service.engines.engine import Decoding, EngineLost, Row
from decoder_service.engines.hf import load_engine
from decoder_service.feed import Feed
from decoder_service.keys import Key
from decoder_service.metrics import Metrics
from decoder_service.settings import DecoderSettings
from decoder_service.tickets import Job
from shared.wire import DecodeRequest, Program
from shared.wire_latents import EmbedRequest

GREEDY = Decoding(8)


@pytest.fixture
def job() -> Iterator[Callable[..., Job]]:
    """Make jobs of a length, each of a message of its own."""
    loop = asyncio.new_event_loop()
    numbers = itertools.count()

    def make(length: int, decoding: Decoding = GREEDY) -> Job:
        message = str(next(numbers))
        done: asyncio.Future[Program] = loop.create_future()
        row = Row(message, (0,) * length, 0)
        return Job(Key(message, decoding, 0), row, length + decoding.max_new_tokens, done)

    yield make
    loop.close()


def feed_of(max_batch: int, *, paused: bool = False) -> Feed:
    return Feed(max_batch, 10_000, told=lambda _: None, joined=lambda _: None, paused=lambda: paused)


def test_a_long_message_is_taken_while_shorter_ones_keep_coming(job: Callable[..., Job]) -> None:
    feed = feed_of(2)
    long, sampled = job(500), job(3, Decoding(8, 1.0))
    feed.add([job(1), long, sampled])
    taken = []
    for _ in range(4):
        feed.add([job(1), job(1)])
        taken += feed.batch()
    assert long in taken and sampled in taken


def test_a_batch_is_the_oldest_and_those_of_about_its_length(job: Callable[..., Job]) -> None:
    feed = feed_of(3)
    middle, *others = (job(length) for length in (50, 1, 100, 2, 101, 51, 3, 102, 52))
    gone = others.pop()
    feed.add([middle, *others, gone])
    assert feed.drop(gone) and not feed.drop(gone)
    lengths = []
    while batch := feed.batch():
        lengths.append([len(each.row.token_ids) for each in batch])
    assert lengths == [[50, 51, 100], [1, 2, 3], [101, 102]]
    assert len(feed) == 0


def test_while_something_else_waits_a_turn_of_the_engine_is_one_batch(job: Callable[..., Job]) -> None:
    feed = feed_of(2, paused=True)
    feed.add([job(1) for _ in range(6)])
    for _ in range(2):
        feed.begin()
        assert len(feed.join(0, 0)) == 2, "text has its turn as well"
        assert not feed.join(1, 9), "nothing joins"
        assert not feed.join(0, 0), "and nothing follows"
    assert len(feed) == 2


def test_a_latent_request_is_answered_while_text_keeps_coming(model_dir: Path) -> None:
    settings = DecoderSettings(model=str(model_dir), max_batch=2, cache_size=0)
    lost: list[EngineLost] = []
    numbers, answered = itertools.count(), []

    async def text(batcher: Batcher) -> None:
        while True:
            request = DecodeRequest(messages=[f"text {next(numbers)}"], max_new_tokens=24)
            with batcher.waiting_for(await batcher.admit(request)) as ticket:
                answered.extend(await ticket.programs())

    async def answered_before_it() -> int:
        batcher = Batcher(settings, lambda: load_engine(settings), Metrics(CollectorRegistry()), lost.append)
        await batcher.start()
        traffic = [asyncio.create_task(text(batcher)) for _ in range(12)]
        try:
            while len(answered) < 12:
                await asyncio.sleep(0.01)
            before = len(answered)
            assert batcher.engine.latents is not None
            work = batcher.engine.latents.embed(EmbedRequest(texts=["a"]))
            reply = await asyncio.wait_for(batcher.alone(work), 20)
            assert len(reply.embeddings) == 1 and not any(task.done() for task in traffic)
            return len(answered) - before
        finally:
            for task in traffic:
                task.cancel()
            await asyncio.gather(*traffic, return_exceptions=True)
            await batcher.close()

    assert asyncio.run(answered_before_it()) <= 4, "it waits for the batch that runs, and no other"
    assert not lost
