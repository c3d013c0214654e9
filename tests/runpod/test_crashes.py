"""No created resource is ever lost track of: a crash at any step, between any two requests or inside a write.

A step changes something: a request that is no GET, or a line written to the record. A crash comes before it,
in the middle of a line, or after it; for a request: carried out, and nobody has read the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runpod_deployer.api import Runpod
from runpod_deployer.deploy import Deployer
from runpod_deployer.deployment import Deployment
from runpod_deployer.journal import Journal

When = Literal["before", "after", "torn"]


class Crash(BaseException):
    """The process ends here: no `except Exception` and no clean-up of ours may see it."""


class Fuse:
    """Counts steps and crashes at one of them; only lines can be torn."""

    def __init__(self, at: int, when: When) -> None:
        self.at, self.when, self.steps = at, when, 0

    def burns(self, moment: When) -> bool:
        return self.steps == self.at and self.when == moment


class Line(httpx.HTTPTransport):
    """The network, until the crash."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        changes = request.method != "GET" and self.fuse.when != "torn"
        self.fuse.steps += changes
        if changes and self.fuse.burns("before"):
            raise Crash
        reply = super().handle_request(request)
        if changes and self.fuse.burns("after"):
            reply.close()
            raise Crash
        return reply


class Paper(Journal):
    """The record, until the crash, which may leave half a line."""

    def __init__(self, path: Path, project: str, fuse: Fuse) -> None:
        super().__init__(path, project)
        self.fuse = fuse

    def _append(self, line: bytes) -> None:
        self.fuse.steps += 1
        if self.fuse.burns("before"):
            raise Crash
        super()._append(line[: len(line) // 2] if self.fuse.burns("torn") else line)
        if self.fuse.burns("torn") or self.fuse.burns("after"):
            raise Crash


def run(fake: Any, path: Path, fuse: Fuse, work: Callable[[Deployer], object]) -> bool:
    """Do some work in a «process» that ends at the fuse; whether it came to its end."""
    api = Runpod("rpa_test", fake.api_url, transport=Line(fuse), pause=lambda _: None)
    try:
        work(Deployer(api, Paper(path, "lab", fuse), say=lambda _: None, pause=lambda _: None))
    except Crash:
        return False
    finally:
        api.close()
    return True


def accounted(fake: Any, path: Path) -> None:
    """Everything that exists is in the record, by its id or by its unique name, and `status` shows it."""
    journal = Journal(path, "lab")
    known = {entry.name for entry in journal.entries.values()}
    assert set(fake.names()) <= known
    rows: list[Any] = []
    run(fake, path, Fuse(0, "before"), lambda it: rows.extend(it.status()))
    assert fake.ids() <= {row.id for row in rows if row.state == "tracked"}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after", "torn"])
def test_a_crash_at_any_step_of_up_loses_nothing(
    fake: Any, wanted: Callable[..., Deployment], tmp_path: Path, when: When
) -> None:
    """Every step of `up` in turn: afterwards all is accounted for, `up` completes it, `down` clears it."""
    step, done = 0, False
    while not done:
        step += 1
        path = tmp_path / f"{when}{step}.jsonl"
        fake.reset()
        done = run(fake, path, Fuse(step, when), lambda it: it.up(wanted()))
        accounted(fake, path)
        assert run(fake, path, Fuse(0, when), lambda it: it.up(wanted()))
        counts = {kind: len(each) for kind, each in fake.all().items()}
        assert counts == {"pods": 2, "endpoints": 1, "volumes": 1}, (step, when)
        assert run(fake, path, Fuse(0, when), lambda it: it.down(volumes=True, orphans=False))
        assert not fake.ids(), (step, when)
    assert step > (9 if when == "torn" else 13)


FAULTS = st.lists(
    st.fixed_dictionaries({
        "path": st.sampled_from(["/pods", "/serverless", "/network-volumes"]),
        "do": st.sampled_from(["refuse", "after"]),
        "status": st.sampled_from([400, 402, 403, 429, 500, 503]),
        "gpu": st.sampled_from([None, "NVIDIA RTX A5000", "NVIDIA GeForce RTX 4090"]),
        "skip": st.integers(0, 2),
    }),
    max_size=3,
)  # fmt: skip
CRASHES = st.lists(st.tuples(st.integers(1, 16), st.sampled_from(["before", "after", "torn"])), max_size=4)


@pytest.mark.slow
@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    faults=FAULTS, crashes=CRASHES, verbs=st.lists(st.sampled_from(["up", "down"]), min_size=4, max_size=4)
)
def test_crashes_and_faults_in_any_order_lose_nothing(
    fake: Any, wanted: Callable[..., Deployment], tmp_path_factory: pytest.TempPathFactory,
    faults: list[dict[str, Any]], crashes: list[tuple[int, When]], verbs: list[str],
) -> None:  # fmt: skip
    """Several processes one after the other, each crashing somewhere, while the API fails in between."""
    fake.reset()
    foreign = fake.create_pod("psd-lab9-trainer-00000000")
    path = tmp_path_factory.mktemp("crashes") / "lab.jsonl"
    for fault in faults:
        if fault["path"] != "/pods":
            fault = {**fault, "gpu": None}
        if fault["do"] == "after" and fault["status"] < 500:
            fault = {**fault, "do": "refuse"}
        fake.rule("POST", **fault)
    for (step, when), verb in zip(crashes, verbs, strict=False):
        try:
            if verb == "up":
                run(fake, path, Fuse(step, when), lambda it: it.up(wanted()))
            else:
                run(fake, path, Fuse(step, when), lambda it: it.down(volumes=True, orphans=False))
        except Exception as error:  # noqa: BLE001 - a refusal or an outage, as the fault says
            assert type(error).__module__.split(".")[0] in ("runpod_deployer", "shared"), error
        known = {entry.name for entry in Journal(path, "lab").entries.values()}
        assert set(fake.names()) - {"psd-lab9-trainer-00000000"} <= known
    assert run(fake, path, Fuse(0, "before"), lambda it: it.down(volumes=True, orphans=False))
    assert fake.ids() == {foreign}
