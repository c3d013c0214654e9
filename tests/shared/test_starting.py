"""Full collections wait for the modules, and come back: observed in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import gc, itertools, sys, time
from shared.starting import collect_later
full = []
gc.callbacks.append(lambda phase, info: full.append(phase) if info["generation"] == 2 else 0)
usual = gc.get_threshold()
if sys.argv[1] == "later":
    collect_later(settled_s=0.3)
{load}
print(len(full) // 2, gc.get_threshold() == usual)
end = time.monotonic() + 20
kept = []
while time.monotonic() < end and not (gc.get_threshold() == usual and len(full) > 4):
    kept.append([[] for _ in range(1000)])
print(len(full) > 4, gc.get_threshold() == usual, len(gc.callbacks))
"""
LOAD = "import email.mime.text, http.client, asyncio, pydantic, httpx, fastapi, prometheus_client"


def said(how: str, load: str = LOAD) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(load=load), how], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_nothing_is_looked_through_while_modules_load_and_everything_afterwards() -> None:
    loading, afterwards = said("later")
    assert loading == "0 False"
    assert afterwards == "True True 1"


def test_without_it_a_start_collects() -> None:
    loading, _ = said("at once")
    assert int(loading.split()[0]) > 0 and loading.endswith("True")


def test_it_waits_as_long_as_modules_come() -> None:
    """Half a second of loading, a module every tenth: longer than what counts as settled."""
    more = (
        "import time, types\n"
        "kept = []\n"
        "for n in range(6):\n"
        "    time.sleep(0.1)\n"
        "    sys.modules[f'new{n}'] = types.ModuleType('new')\n"
        "    kept.append([[] for _ in range(20_000)])\n"
    )
    assert said("later", more)[0] == "0 False"


@pytest.mark.parametrize("module", ["trainer.cli", "decoder_service.__main__"])
def test_the_processes_that_load_most_start_so(module: str) -> None:
    code = (
        "import gc, sys\n"
        f"from {module} import main\n"
        "sys.argv[1:] = ['--version']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(gc.get_threshold()[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "DECODER_ENGINE": "no such"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout.splitlines()[-1]) > 1000
