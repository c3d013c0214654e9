"""The sandbox under attack: the one that SANDBOX_URL names, or one of each jail this machine can give."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from shared.ports import free_port

JAILS = (
    "bwrap",
    "process",
    pytest.param("gvisor", marks=[pytest.mark.docker, pytest.mark.slow]),
    pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
)


@pytest.fixture(scope="session", params=JAILS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of a sandbox with one lane, so that what follows an attack is run where it was."""
    url, token = os.environ.get("SANDBOX_URL"), os.environ.get("SANDBOX_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if url:
        if request.param != "bwrap":
            pytest.skip("SANDBOX_URL names one sandbox, which was attacked already")
        with httpx.Client(base_url=url, headers=headers, timeout=120) as client:
            yield client
        return
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")
    port = free_port()
    environment = {
        **os.environ, "SANDBOX_PORT": str(port), "SANDBOX_JAIL": request.param, "SANDBOX_LANES": "1",
        "SANDBOX_SPARES": "1", "SANDBOX_MIN_ISOLATION": "rlimits", "SANDBOX_LOG_LEVEL": "warning",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "sandbox_service"], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            _wait(client, process, request.param)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], jail: str) -> None:
    end = time.monotonic() + 120
    while True:
        if process.poll() is not None:
            pytest.skip(f"this machine cannot give the jail {jail!r}; see above")
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, client.get("/readyz").text
        time.sleep(0.1)
