"""Modules are imported while the collector rests, which rests no longer, and leaves them alone for good."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from shared.starting import load


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "looks_around.py").write_text("import gc\ncollects = gc.isenabled()\n")
    (tmp_path / "fails.py").write_text("raise RuntimeError('x')\n")
    for name in ("looks_around", "fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "looks_around"


def test_the_collector_rests_during_an_import_and_works_afterwards(module: str) -> None:
    assert load(module).collects is False
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(module: str) -> None:
    gc.disable()
    try:
        load(module)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_it_brought_is_not_looked_at_again_and_what_comes_later_is(module: str) -> None:
    before = gc.get_freeze_count()
    load(module)
    frozen = gc.get_freeze_count()
    assert frozen > before
    later: list[object] = []
    later.append(later)
    load(module)  # which is there already: nothing that was made since is kept
    assert any(found is later for found in gc.get_objects())
    assert gc.get_freeze_count() <= frozen  # another thread may have dropped one of them since


def test_it_works_again_after_an_import_that_failed(module: str) -> None:
    with pytest.raises(RuntimeError, match="x"):
        load("fails")
    assert gc.isenabled()
