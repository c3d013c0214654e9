"""What only the gVisor jail has: sandboxes of its own on this machine, and /proc behind a closed door."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_service.jails import gvisor
from sandbox_service.jails.gvisor import GVisor
from sandbox_service.jails.jail import JailMissing
from sandbox_service.jails.uids import Uids
from sandbox_service.room import candidates
from sandbox_service.run import Run
from sandbox_service.settings import SandboxSettings
from shared.wire import Limits

pytestmark = [pytest.mark.gvisor, pytest.mark.slow]
PATIENT = Limits(cpu_s=5, wall_s=60, memory_mb=128, output_kb=64, file_mb=1, processes=8)


@pytest.fixture
def jail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GVisor]:
    """A gVisor jail that keeps its state where no other test does."""
    monkeypatch.setattr(gvisor.Life, "ROOT", tmp_path)
    try:
        made = GVisor(Uids(20_000, 4, 1000))
    except JailMissing as error:
        pytest.skip(f"no gvisor jail here: {error}")
    yield made
    made.close()


def sandboxes(folder: Path) -> list[int]:
    """Return the pids of this machine's processes that work for a sandbox below `folder`."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(entry.name))
    return found


def gone(folder: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while sandboxes(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_a_program_runs_on_gvisors_kernel_as_a_uid_of_its_own(jail: GVisor, cell_in: Any) -> None:
    cell = cell_in(jail)
    program = "import os\nhere = os.uname().release, os.getuid(), os.path.exists('/proc/self')"
    first, second = (cell.run(program, "here").answers[0].payload for _ in range(2))
    assert first != second, "each run has another uid"
    assert os.uname().release.encode() not in first
    assert b'["B",0]' in first, "/proc is the zygote's alone"


def test_a_cancelled_run_ends_its_sandbox(jail: GVisor, cell_in: Any, tmp_path: Path) -> None:
    cell = cell_in(jail)

    async def cancelled() -> set[int]:
        before = set(sandboxes(tmp_path))
        task = asyncio.create_task(cell.pool.run(Run("import time\ntime.sleep(60)", "", (), PATIENT)))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return before

    before = cell.wait(cancelled())
    assert before, "there were sandboxes to be seen"
    cell.is_honest()
    cell.wait(cell.pool.close())
    assert gone(tmp_path, 5)


def test_a_killed_lane_is_swept_and_its_name_is_free_again(jail: GVisor, cell_in: Any) -> None:
    cell = cell_in(jail)
    for _ in range(3):
        for lane in list(cell.pool._all):
            lane.kill()
        ended = cell.run("x = 1", "x")
        assert ended.how == "answered", ended
    cell.is_honest()


SERVICE = """
import asyncio, sys
from pathlib import Path
from sandbox_service.jails import gvisor
gvisor.Life.ROOT = Path(sys.argv[1])
from sandbox_service.jails.uids import Uids
from sandbox_service.pool import Pool
from sandbox_service.run import Run
from shared.wire import Limits
async def main():
    pool = Pool(gvisor.GVisor(Uids(20_000, 4, 1000)), lanes=2, spares=1, recycle_runs=1000)
    await pool.start()
    limits = Limits(cpu_s=60, wall_s=60)
    runs = [asyncio.create_task(pool.run(Run("while True: pass", "", (), limits))) for _ in range(2)]
    await asyncio.sleep(0.5)
    print("busy", flush=True)
    await asyncio.gather(*runs)
asyncio.run(main())
"""


def test_what_a_killed_service_leaves_is_gone_after_the_next_start(jail: GVisor, tmp_path: Path) -> None:
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(tmp_path)], stdout=subprocess.PIPE)
    assert service.stdout is not None
    with service.stdout:
        assert service.stdout.readline() == b"busy\n"
        service.send_signal(signal.SIGKILL)
    service.wait()
    after = GVisor(Uids(20_000, 4, 1000))
    after.close()
    jail.close()
    assert gone(tmp_path, 5)
    assert [path for home in tmp_path.iterdir() for path in home.iterdir()] == []


def test_a_living_service_is_not_swept(jail: GVisor, cell_in: Any) -> None:
    cell = cell_in(jail)
    GVisor(Uids(20_000, 4, 1000)).close()
    cell.is_honest()
    assert cell.pool.counts.deaths == 0


def test_two_services_share_a_machine(jail: GVisor, cell_in: Any) -> None:
    first, second = cell_in(jail), cell_in(GVisor(Uids(30_000, 4, 1000)))
    first.is_honest()
    second.is_honest()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gvisor.Life, "ROOT", tmp_path)
    (tmp_path / f"sandbox-gvisor-{os.geteuid()}").mkdir(mode=0o777)
    (tmp_path / f"sandbox-gvisor-{os.geteuid()}").chmod(0o777)
    with pytest.raises(JailMissing, match="not a folder of this user alone"):
        GVisor(Uids(20_000, 4, 1000))


def test_a_missing_runsc_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JailMissing, match="install the package `runsc`"):
        candidates(SandboxSettings(jail="gvisor", min_isolation="gvisor"))
