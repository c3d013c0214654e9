"""Runs that took long the last time are done beside the others, not after them, and never hold every lane."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids
from sandbox_service.lengths import Lengths
from sandbox_service.pool import Pool
from sandbox_service.run import Run
from shared.wire import Limits

NAP, LONG = "import time\ndef f(s): time.sleep(s)", "f(0.6)"


def run(call: str, program: str = NAP, setup: str = "") -> Run:
    return Run(program, setup, (call,), Limits(wall_s=30))


async def ends(pool: Pool, calls: list[str]) -> list[str]:
    """Run all at once; return their calls in the order of their ends."""
    found: list[str] = []

    async def one(call: str) -> None:
        assert (await pool.run(run(call))).how == "answered"
        found.append(call)

    await asyncio.gather(*map(one, calls))
    return found


@asynccontextmanager
async def opened(lanes: int) -> AsyncIterator[Pool]:
    pool = Pool(Process(Uids(40_000, lanes, 1000)), lanes=lanes, spares=0, recycle_runs=1000)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def short(count: int) -> list[str]:
    return [f"f(0.05 + 0 * {n})" for n in range(count)]


@pytest.mark.anyio
async def test_what_took_long_the_last_time_begins_first_the_next_time() -> None:
    async with opened(lanes=2) as pool:
        calls = [*short(30), LONG]
        assert (await ends(pool, calls))[-1] == LONG
        assert (await ends(pool, calls))[-1] != LONG


@pytest.mark.anyio
async def test_long_runs_overtake_on_one_lane_and_the_others_go_on() -> None:
    async with opened(lanes=2) as pool:
        calls = [*short(8), LONG, f"{LONG}  # again"]
        await ends(pool, calls)
        order = await ends(pool, calls)
        assert order.index(LONG) > 2, order


@pytest.mark.anyio
async def test_the_only_lane_is_nobodys_to_overtake_on() -> None:
    async with opened(lanes=1) as pool:
        calls = [*short(3), LONG]
        assert await ends(pool, calls) == await ends(pool, calls) == calls


@pytest.mark.anyio
async def test_a_cancelled_one_is_forgotten_and_the_others_are_done() -> None:
    async with opened(lanes=2) as pool:
        await ends(pool, [LONG, "f(0.5)"])
        held = [asyncio.create_task(pool.run(run(call))) for call in (LONG, "f(0.5)", "f(0.5)")]
        await asyncio.sleep(0.1)
        held[2].cancel()
        assert len(await ends(pool, short(4))) == 4
        await asyncio.gather(*held[:2])
        assert (pool._long_waiting, pool._long_at_work) == (0, 0)


def test_calls_are_known_by_their_text_and_setup_and_forgotten_when_a_run_was_quick() -> None:
    lengths = Lengths(long_s=1)
    lengths.took(run("f(1)"), 2)
    assert lengths.is_long(run("f(1)", program="another"))
    assert not lengths.is_long(run("f(2)")) and not lengths.is_long(run("f(1)", setup="x = 1"))
    lengths.took(run("f(1)"), 0.5)
    assert not lengths.is_long(run("f(1)"))


def test_runs_without_calls_say_nothing_of_each_other() -> None:
    lengths = Lengths(long_s=1)
    lengths.took(Run("while 1: pass", "", (), Limits()), 2)
    assert not lengths.is_long(Run("x = 1", "", (), Limits()))


def test_what_is_remembered_keeps_no_text_alive() -> None:
    lengths, setup = Lengths(long_s=1), "".join(["x = 1\n"] * 1000)
    before = sys.getrefcount(setup)
    lengths.took(run("f(1)", setup=setup), 2)
    assert lengths.is_long(run("f(1)", setup=setup))
    assert sys.getrefcount(setup) == before


def test_no_more_than_a_number_of_calls_is_remembered() -> None:
    lengths = Lengths(long_s=1)
    for n in range(5000):
        lengths.took(run(f"f({n})"), 2)
    assert lengths.is_long(run("f(4999)")) and not lengths.is_long(run("f(0)"))
    assert len(lengths._long) == 4096
