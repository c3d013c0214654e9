"""A service whose jail cannot hold at its start, and can later."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from tests.sandbox_service.conftest import make_jail, wait_ready

from sandbox_service.app import create_app
from sandbox_service.settings import SandboxSettings


def test_a_jail_that_could_not_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live_module: Callable[[FastAPI], str]
) -> None:
    make_jail("bwrap").close()
    # The service's first look still finds bubblewrap in order; no lane can be started by it.
    (tmp_path / "bin").mkdir()
    wrapper, broken = tmp_path / "bin" / "bwrap", tmp_path / "broken"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *"env true") ;; *) [ ! -e {broken} ] || exit 1 ;; esac\n'
        f'exec {shutil.which("bwrap")} "$@"\n'
    )
    wrapper.chmod(0o755)
    broken.touch()
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    url = live_module(create_app(SandboxSettings(jail="bwrap", lanes=1, spares=0)))
    with httpx.Client(base_url=url, timeout=60) as client:
        end = time.monotonic() + 60
        while "no jail holds" not in client.get("/readyz").text:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert client.get("/readyz").status_code == 503
        broken.unlink()
        wait_ready(client)
        assert client.get("/v1/capabilities").json()["jail"] == "bwrap"
