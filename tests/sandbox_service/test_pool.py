"""Who is to blame when a jail dies, and that nothing of a run outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids
from sandbox_service.pool import Pool, counted_while_waiting
from sandbox_service.run import Ended, How, Run
from shared.errors import Broken, Unavailable
from shared.wire import Limits

SLOW = Limits(cpu_s=5, wall_s=30)


def a_run(program: str, *calls: str, limits: Limits = SLOW) -> Run:
    return Run(program, "", calls, limits)


async def kill_the_running(pool: Pool, times: int) -> None:
    """Kill the process of the lane that has a run in hand, until `times` runs have died with theirs.

    A kill may meet a lane whose run has just died, or is over; a harmless program's death is not counted.
    """
    before, done = pool.counts.deaths, set[int]()
    while pool.counts.deaths - before < times:
        for lane in list(pool._all):
            if lane.in_hand and lane.process.pid not in done:
                done.add(lane.process.pid)
                lane.process.kill()
        await asyncio.sleep(0)  # a harmless run is over in milliseconds: no nap, or it gets away


async def _with_kills(pool: Pool, run: Run, times: int) -> Any:
    killer = asyncio.create_task(kill_the_running(pool, times))
    try:
        return await pool.run(run)
    finally:
        killer.cancel()


def test_a_run_whose_jail_dies_once_is_run_again_and_judged(cell: Any) -> None:
    before = cell.pool.counts.deaths
    ended = cell.wait(_with_kills(cell.pool, a_run("import time\ntime.sleep(0.3)\nx = 1", "x"), 1))
    assert (ended.how, cell.pool.counts.deaths - before) == ("answered", 1)
    cell.is_honest()


def test_a_run_whose_jail_dies_twice_has_crashed(cell: Any) -> None:
    ended = cell.wait(_with_kills(cell.pool, a_run("import time\ntime.sleep(0.3)", "1", "2"), 2))
    assert ended.how == "crashed"
    assert [answer.status for answer in ended.answers] == ["missing", "missing"]
    cell.is_honest()


def test_when_a_harmless_program_dies_too_there_is_no_verdict(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pool's own is over in a millisecond, and gets away from the kill where processors are wanted.
    monkeypatch.setattr("sandbox_service.pool._CANARY", a_run("import time\ntime.sleep(0.3)", "1"))
    with pytest.raises(Broken):
        cell.wait(_with_kills(cell.pool, a_run("import time\ntime.sleep(0.3)", "1"), 3))
    cell.is_honest()


def test_a_lane_is_replaced_after_its_runs(cell: Any) -> None:
    before, cell.pool.recycle_runs = cell.pool.counts.recycled, 3
    try:
        for _ in range(10):
            cell.is_honest()
    finally:
        cell.pool.recycle_runs = 1000
    assert cell.pool.counts.recycled - before >= 3


def test_a_cancelled_run_is_dead_within_a_tenth_of_a_second(cell: Any) -> None:
    if "gVisor" in cell.pool.jail.layers[0]:
        pytest.skip("this machine does not see processes of gVisor; test_gvisor.py looks at the sandbox")
    name = f"{uuid.uuid4().int % 10**9}.5"
    program = (
        f"import subprocess, time\nsubprocess.Popen(['/usr/bin/sleep', '{name}'], start_new_session=True)\n"
        f"time.sleep(60)"
    )

    async def cancelled() -> float:
        task = asyncio.create_task(cell.pool.run(a_run(program)))
        while not running(name):
            await asyncio.sleep(0.02)
        started = time.monotonic()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while running(name):
            await asyncio.sleep(0.005)
        return time.monotonic() - started

    # A loaded machine may need longer; the order of magnitude is what counts here.
    assert cell.wait(asyncio.wait_for(cancelled(), 30)) < 1.0
    cell.is_honest()


def test_a_pool_that_closes_keeps_nobody_waiting(cell_in: Any) -> None:
    closing = cell_in(Process(Uids(20_000, 4, 1000)))

    async def closed() -> list[Any]:
        runs = [asyncio.create_task(closing.pool.run(a_run("import time\ntime.sleep(20)"))) for _ in range(3)]
        await asyncio.sleep(0.2)
        await closing.pool.close()
        return await asyncio.gather(*runs, return_exceptions=True)

    ends = closing.wait(asyncio.wait_for(closed(), 15))
    assert [type(end) for end in ends] == [Unavailable] * 3


def running(argument: str) -> list[int]:
    """Return the processes of this machine that have `argument` among theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in words:
                found.append(int(entry.name))
    return found


def test_many_runs_leave_no_descriptors_and_no_processes(cell: Any) -> None:
    cell.is_honest()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        cell.run("import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    while True: pass", "1")
    cell.is_honest()
    # A lane that is just being replaced holds a few of its own.
    end = time.monotonic() + 20
    while len(list(Path("/proc/self/fd").iterdir())) > before + 1:
        assert time.monotonic() < end
        cell.wait(asyncio.sleep(0.1))


@pytest.mark.parametrize("jail", ["bwrap", "process"])
def test_nothing_outlives_a_service_that_is_killed(
    repo: Path, jail: str, request: pytest.FixtureRequest
) -> None:
    name = f"{uuid.uuid4().int % 10**9}.25"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(repo / room) for room in ("shared", "sandbox-service")),
        **{"SANDBOX_JAIL": jail, "SANDBOX_LANES": "1", "SANDBOX_PORT": "0", "SANDBOX_LOG_LEVEL": "info"},
    }
    service = subprocess.Popen(
        [sys.executable, "-m", "sandbox_service"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert service.stderr is not None
    try:
        url = _url(service)
        body = {
            "program": f"import subprocess, time, os\nos.setsid() if os.getsid(0) != os.getpid() else 0\n"
            f"for _ in range(2): subprocess.Popen(['/usr/bin/sleep', '{name}'], start_new_session=True)\n"
            f"time.sleep(60)"
        }
        with pytest.raises(httpx.TransportError):
            _post_and_kill(url, {"jobs": [{**body, "limits": {"wall_s": 60}}]}, service, name)
        end = time.monotonic() + 20
        while running(name) and time.monotonic() < end:
            time.sleep(0.05)
        assert not running(name)
    finally:
        service.kill()
        service.wait()
        service.stderr.close()


def _url(service: subprocess.Popen[str]) -> str:
    assert service.stderr is not None
    lines = []
    for line in service.stderr:
        lines.append(line)
        if '"url"' in line or "http://" in line:
            url = line[line.index("http://") :].split('"')[0].split()[0]
            break
    else:
        pytest.skip(f"no such jail here: {''.join(lines)[-500:]}")
    for _ in range(600):
        if httpx.get(f"{url}/readyz").status_code == 200:
            return url
        time.sleep(0.1)
    raise AssertionError("the service did not get ready")


def _post_and_kill(url: str, body: Any, service: subprocess.Popen[str], name: str) -> None:
    """Post a job, wait until its daemons run, and kill the service under it."""

    async def both() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            post = asyncio.create_task(client.post(f"{url}/v1/execute", json=body))
            while len(running(name)) < 2:
                await asyncio.sleep(0.05)
                assert not post.done(), post.result().text
            os.kill(service.pid, signal.SIGKILL)
            await post

    asyncio.run(both())


@pytest.mark.parametrize(
    ("how", "detail", "cpu_ms", "wall_ms", "again"),
    [
        ("timeout", "CPU time limit while loading", 5000, 9000, True),
        ("timeout", "CPU time limit before answer 1 of 3", 5000, 5600, False),
        ("timeout", "wall time limit while loading", 100, 15_000, False),
        ("answered", "", 100, 900, False),
    ],
)
def test_ticks_counted_while_others_had_the_processors_are_doubted(
    how: How, detail: str, cpu_ms: float, wall_ms: float, again: bool
) -> None:
    assert counted_while_waiting(Ended(how, detail, (), cpu_ms, wall_ms, None, "", "")) is again
