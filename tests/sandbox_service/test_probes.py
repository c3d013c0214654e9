"""The service's attacks on itself: a jail holds against all of them, and a jail with a hole is found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox_service.jails.jail import JailMissing, Start
from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids
from sandbox_service.probes import broken_promises, probe
from sandbox_service.room import candidates
from sandbox_service.settings import SandboxSettings


class Leaky(Process):
    """The process jail without seccomp and Landlock, still calling itself whole. It keeps its uids: one of
    the probes kills the service, and here that is the test."""

    def start(self, lane: int) -> Start:
        start = super().start(lane)
        gone = ("seccomp", "child_seccomp", "landlock")
        setup = {key: value for key, value in start.setup.items() if key not in gone}
        return replace(start, setup=setup)


def test_every_probe_holds(cell: Any) -> None:
    probes = cell.wait(probe(cell.pool))
    assert [one for one in probes if not one.held] == []
    assert broken_promises(cell.pool.jail.name, probes) == []


def test_a_jail_with_a_hole_is_found_out(cell_in: Any) -> None:
    jail = Leaky(Uids(20_000, 4, 1000))
    if jail.name != "process":
        jail.close()
        pytest.skip(f"only root can try this safely; the process jail here is {jail.name!r}")
    leaky = cell_in(jail)
    probes = leaky.wait(probe(leaky.pool))
    broken = {one.name for one in broken_promises(leaky.pool.jail.name, probes)}
    assert "connect to this machine, or open a raw socket" in broken
    assert "see processes outside, or touch those inside" in broken


def test_less_than_the_wanted_isolation_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SandboxSettings(jail="process", min_isolation="bwrap")
    with pytest.raises(JailMissing, match="weaker than wanted"):
        candidates(settings)


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JailMissing, match="bubblewrap"):
        candidates(SandboxSettings(jail="bwrap", min_isolation="bwrap"))
