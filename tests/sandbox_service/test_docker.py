"""What only the Docker jail has: an engine that must be given, and containers that must not stay."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox_service.jails import docker as jail_module
from sandbox_service.jails.docker import Docker
from sandbox_service.jails.jail import JailMissing
from sandbox_service.jails.uids import Uids
from sandbox_service.room import candidates
from sandbox_service.run import Run
from sandbox_service.settings import SandboxSettings
from shared.wire import Limits

PATIENT = Limits(cpu_s=60, wall_s=60)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Docker]:
    """Make a Docker jail with runc, whose lives are apart from those of other tests."""
    monkeypatch.setattr(jail_module.Life, "ROOT", tmp_path)
    given = SandboxSettings()

    def jail(**changed: Any) -> Docker:
        settings = {
            "host": given.docker_host,
            "image": given.docker_image,
            "runtime": "runc",
            "memory_mb": 2048,
        }
        return Docker(Uids(20_000, 4, 1000), **{**settings, **changed})

    return jail


def containers(folder: Path) -> list[str]:
    """Return the names of the containers whose life is kept below `folder`."""
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=SandboxSettings().docker_host)
    found = client.containers.list(
        all=True, filters={"label": "psuedoptimal.sandbox.life"}, ignore_removed=True
    )
    names = [one.name for one in found if str(folder) in one.labels["psuedoptimal.sandbox.life"]]
    client.close()
    return names


def gone(folder: Path) -> bool:
    end = time.monotonic() + 15
    while containers(folder):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_an_engine_has_to_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "SANDBOX_DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(JailMissing, match="this machine's is not taken by itself") as caught:
        candidates(SandboxSettings(jail="docker"))
    assert "SANDBOX_DOCKER_HOST" in str(caught.value)
    assert "docker" not in [jail.name for jail in candidates(SandboxSettings(min_isolation="rlimits"))]


# The SDK leaves a socket open where its constructor fails; the warning comes when it is collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_answer_is_named(tmp_path: Path, make: Callable[..., Docker]) -> None:
    pytest.importorskip("docker", reason="the extra `docker` is not installed")
    with pytest.raises(JailMissing, match="no engine answers there"):
        make(host=f"unix://{tmp_path}/nobody.sock")
    gc.collect()


@pytest.mark.docker
@pytest.mark.slow
def test_what_the_engine_lacks_is_named(make: Callable[..., Docker], tmp_path: Path) -> None:
    with pytest.raises(JailMissing, match=r"SANDBOX_DOCKER_IMAGE='nobody/has:this'.*nothing is pulled"):
        make(image="nobody/has:this")
    with pytest.raises(JailMissing, match="SANDBOX_DOCKER_RUNTIME='crun-of-nobody'"):
        make(runtime="crun-of-nobody")
    assert containers(tmp_path) == []


@pytest.mark.docker
@pytest.mark.slow
def test_a_cancelled_run_and_a_closed_pool_leave_no_container(
    make: Callable[..., Docker], cell_in: Any, tmp_path: Path
) -> None:
    cell = cell_in(make())
    assert len(containers(tmp_path)) == 2

    async def cancelled() -> None:
        task = asyncio.create_task(cell.pool.run(Run("while True: pass", "", (), PATIENT)))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    cell.wait(cancelled())
    cell.is_honest()
    cell.wait(cell.pool.close())
    assert containers(tmp_path) == []


SERVICE = """
import asyncio, sys
from pathlib import Path
from sandbox_service.jails.docker import Docker, Life
Life.ROOT = Path(sys.argv[1])
from sandbox_service.jails.uids import Uids
from sandbox_service.pool import Pool
from sandbox_service.run import Run
from sandbox_service.settings import SandboxSettings
from shared.wire import Limits
given = SandboxSettings()
async def main():
    jail = Docker(Uids(20_000, 4, 1000), host=given.docker_host, image=given.docker_image, runtime="runc",
                  memory_mb=2048)
    pool = Pool(jail, lanes=2, spares=1, recycle_runs=1000)
    await pool.start()
    runs = [asyncio.create_task(pool.run(Run("while True: pass", "", (), Limits(cpu_s=60, wall_s=60))))
            for _ in range(2)]
    await asyncio.sleep(0.5)
    print("busy", flush=True)
    await asyncio.gather(*runs)
asyncio.run(main())
"""


@pytest.mark.docker
@pytest.mark.slow
def test_what_a_killed_service_leaves_is_gone_after_the_next_start(
    make: Callable[..., Docker], tmp_path: Path
) -> None:
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(tmp_path)], stdout=subprocess.PIPE)
    assert service.stdout is not None
    with service.stdout:
        assert service.stdout.readline() == b"busy\n"
        assert len(containers(tmp_path)) == 3
        service.send_signal(signal.SIGKILL)
    service.wait()
    make().close()
    assert gone(tmp_path)
    assert [path for home in tmp_path.iterdir() for path in home.iterdir()] == []


@pytest.mark.docker
@pytest.mark.slow
def test_a_container_has_no_more_than_it_needs(
    make: Callable[..., Docker], cell_in: Any, tmp_path: Path
) -> None:
    docker = pytest.importorskip("docker")
    cell = cell_in(make())
    client = docker.DockerClient(base_url=SandboxSettings().docker_host)
    told = client.containers.get(containers(tmp_path)[0]).attrs
    client.close()
    host = told["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == ("none", True, False)
    assert (host["CapDrop"], sorted(host["CapAdd"])) == (["ALL"], ["KILL", "SETGID", "SETUID"])
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Memory"], host["MemorySwap"]) == (2048 << 20, 2048 << 20)
    assert (host["Binds"], told["Mounts"], host["LogConfig"]["Type"]) == (None, [], "none")
    cell.is_honest()
