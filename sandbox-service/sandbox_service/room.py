"""The sandbox at work: it chooses a jail, attacks it, and then judges and executes, many jobs at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from sandbox_service import execute
from sandbox_service.admission import Admission
from sandbox_service.jails.bwrap import Bwrap
from sandbox_service.jails.docker import Docker
from sandbox_service.jails.gvisor import GVisor
from sandbox_service.jails.jail import Jail, JailMissing, interpreter
from sandbox_service.jails.process import Process
from sandbox_service.jails.uids import Uids
from sandbox_service.judge import Judge, Plan
from sandbox_service.pool import Pool
from sandbox_service.probes import broken_promises, probe
from sandbox_service.run import Ended, Run
from sandbox_service.settings import STRENGTH, SandboxSettings
from shared.errors import RoomError, Unavailable
from shared.wire import Capabilities, ExecuteJob, Execution, JudgeRequest, Limits, Probe, Verdict
from shared.wire_plan import PlanReply, PlanRequest

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
_PLANS_AT_A_TIME = 16
# Between two tries of all jails, the last one for ever.
_AGAIN_S = (1.0, 5.0, 15.0, 60.0)


class Warm(NamedTuple):
    """A jail that holds, its lanes, and how it stood the probes."""

    pool: Pool
    probes: list[Probe]
    python: str


class Room:
    """Everything behind the routes. `open` before the first request, `close` after the last."""

    def __init__(self, settings: SandboxSettings, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.judge_ = Judge(talks=settings.lanes)
        self.admission = Admission(settings.queue_limit, settings.lanes, settings.queue_seconds)
        self.warm: Warm | None = None
        self.reason = "the jail is being tried"
        self._opening: asyncio.Task[None] | None = None
        self._count(registry)

    def _count(self, registry: CollectorRegistry) -> None:
        self.outcomes = Counter(
            "sandbox_outcomes", "verdicts and executions by outcome", ["route", "outcome"], registry=registry
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "sandbox_jobs": ("jobs waiting or at work", lambda: self.admission.jobs),
            "sandbox_queue_seconds": ("seconds of work that wait", lambda: self.admission.queued_s),
            "sandbox_lane_deaths": ("lanes that died with a run", lambda: self._pool_count("deaths")),
            "sandbox_lanes_recycled": ("lanes replaced for any reason", lambda: self._pool_count("recycled")),
            "sandbox_starved_runs": (
                "runs repeated because they were starved of a processor, or killed, perhaps from outside",
                lambda: self._pool_count("starved"),
            ),
            "sandbox_compiled_ahead": (
                "runs whose program was compiled while they waited for a lane",
                lambda: float(self.warm.pool.ahead.made) if self.warm else 0.0,
            ),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)

    def _pool_count(self, name: str) -> float:
        return float(getattr(self.warm.pool.counts, name)) if self.warm else 0.0

    async def open(self) -> None:
        """Find the jails this machine can give, and warm and try the strongest in the background.

        raises  JailMissing when there is none that is strong enough: the service does not start
        """
        jails = await asyncio.to_thread(candidates, self.settings)
        self._opening = asyncio.create_task(self._open(jails))

    async def _open(self, jails: list[Jail]) -> None:
        """Take the first jail that stands its probes; with none, stay unready, say why, and try again."""
        for wait in chain(_AGAIN_S, repeat(_AGAIN_S[-1])):
            reasons = []
            for jail in jails:
                reason = await self._stands(jail)
                if reason is None:
                    return
                reasons.append(reason)
            self.reason = "no jail holds on this machine: " + " | ".join(reasons or [self.reason])
            log.error("%s; next try in %.0f s", self.reason, wait)
            await asyncio.sleep(wait)
            # Those before are closed. A machine that had no processor to spare may have one now.
            try:
                jails = await asyncio.to_thread(candidates, self.settings)
            except RoomError as error:
                jails, self.reason = [], str(error)

    async def _stands(self, jail: Jail) -> str | None:
        """Warm and attack a jail. With None it is in force, else the reason why not."""
        given = self.settings
        pool = Pool(jail, given.lanes, given.spares, given.recycle_runs, given.compile_ahead)
        pool.took = self.admission.took
        try:
            await pool.start()
            probes = await probe(pool)
            broken = await asyncio.to_thread(broken_promises, jail.name, probes)
            python = await asyncio.to_thread(jail.version)
        except (RoomError, OSError) as error:
            await pool.close()
            return f"{jail.name}: {error}"
        if broken:
            await pool.close()
            names = "; ".join(f"{one.name} ({one.detail})" for one in broken)
            return f"{jail.name} did not hold against: {names}"
        self.warm, self.reason = Warm(pool, probes, python), ""
        log.info("the jail holds", extra={"jail": jail.name, "layers": list(jail.layers)})
        for weakness in jail.weaknesses:
            log.info("known weakness", extra={"jail": jail.name, "weakness": weakness})
        return None

    async def close(self) -> None:
        """End every lane and the judge's worker."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self.warm is not None:
            await self.warm.pool.close()
        await self.judge_.aclose()

    def ready(self) -> str | None:
        """Why there can be no verdicts now, or None."""
        if self.warm is None:
            return self.reason
        return f"no lane can be started: {self.warm.pool.sick}" if self.warm.pool.sick else None

    def jail_name(self) -> str:
        """Return the name of the jail in force, `none yet` before there is one."""
        return self.warm.pool.jail.name if self.warm else "none yet"

    def ensure_ready(self) -> None:
        """Raise Unavailable unless there can be verdicts."""
        self._ready_pool()

    def _ready_pool(self) -> Pool:
        if self.warm is None:
            raise Unavailable(f"the sandbox is not ready: {self.reason}", retry_after_s=1)
        return self.warm.pool

    def capabilities(self) -> Capabilities:
        """Say which jail is in force, what it stood, and how much work fits; Unavailable before that."""
        pool = self._ready_pool()
        assert self.warm is not None
        return Capabilities(
            jail=pool.jail.name,
            layers=list(pool.jail.layers),
            weaknesses=list(pool.jail.weaknesses),
            probes=self.warm.probes,
            lanes=pool.lanes,
            queue_limit=self.settings.queue_limit,
            python=self.warm.python,
            limits=Limits(),
        )

    async def plans(self, request: JudgeRequest) -> list[Plan]:
        """Take all tests apart before anything runs; raises InvalidRequest naming the job."""
        plans = []
        for number, job in enumerate(request.jobs):
            try:
                plans.append(self.judge_.plan(job, request.min_assurance))
            except RoomError as error:
                raise type(error)(
                    error.detail, hint=error.hint, field=f"jobs[{number}].{error.field}"
                ) from error
            if number % _PLANS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return plans

    async def lint(self, request: PlanRequest) -> PlanReply:
        """Say how tests would be judged; other requests get their turns in between."""
        jobs = []
        for number, job in enumerate(request.jobs):
            jobs.append(self.judge_.lint(job))
            if number % _PLANS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return PlanReply(jobs=jobs)

    async def judge(self, plan: Plan) -> Verdict:
        """Run one plan and judge it."""
        pool = self._ready_pool()
        verdict = await self.judge_.judge(plan, pool)
        self.outcomes.labels("judge", verdict.outcome).inc()
        return verdict

    async def run(self, run: Run) -> Ended:
        """Run one program and say how it ended."""
        return await self._ready_pool().run(run)

    async def execute(self, job: ExecuteJob, run: Run) -> Execution:
        """Run one program and bring its variable back."""
        pool = self._ready_pool()
        done = await execute.execution(job, await pool.run(run), pool.jail.name, self.judge_.link)
        self.outcomes.labels("execute", done.outcome).inc()
        return done


def candidates(settings: SandboxSettings) -> list[Jail]:
    """Return the jails to try, strongest first.

    raises  JailMissing with every reason when there is none, and for a SANDBOX_PYTHON that is no Python
    """
    uids = Uids(settings.uid_base, settings.lanes + settings.spares, settings.recycle_runs)
    makers: dict[str, Callable[..., Jail]] = {
        "gvisor": partial(GVisor, old=settings.jail == "gvisor"),
        "docker": partial(
            Docker,
            host=settings.docker_host,
            image=settings.docker_image,
            runtime=settings.docker_runtime,
            memory_mb=settings.docker_memory_mb,
        ),
        "bwrap": Bwrap,
        "process": Process,
    }
    wanted = list(makers) if settings.jail == "auto" else [settings.jail]
    if settings.jail == "auto" and not settings.docker_host:
        wanted.remove("docker")
    if settings.python is not None and "docker" not in wanted:
        interpreter(settings.python)
    found: list[Jail] = []
    reasons = []
    for name in wanted:
        try:
            jail = makers[name](uids, settings.python)
        except JailMissing as error:
            reasons.append(f"{name}: {error}")
            continue
        if STRENGTH.index(jail.name) >= STRENGTH.index(settings.min_isolation):
            found.append(jail)
        else:
            jail.close()
            why = "; ".join(jail.weaknesses)
            reasons.append(f"here it would be `{jail.name}`, weaker than wanted: {why}")
    for reason in reasons:
        log.info("a jail is passed over: %s", reason)
    if not found:
        raise JailMissing(
            f"SANDBOX_JAIL={settings.jail!r}, SANDBOX_MIN_ISOLATION={settings.min_isolation!r}: "
            "no such jail here: " + " | ".join(reasons),
            hint="give the machine what is missing, or accept less by SANDBOX_MIN_ISOLATION="
            + " or ".join(STRENGTH[: STRENGTH.index(settings.min_isolation)] or ("(nothing is weaker)",)),
        )
    return found


async def gather(works: Sequence[Work[T]]) -> list[T]:
    """Do all, in order; when one fails or this is cancelled, cancel the rest and wait for their end."""
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def as_they_end(works: Sequence[Work[T]]) -> AsyncIterator[tuple[int, T]]:
    """Give (index, result) in the order of their ends; the rest are cancelled when nobody takes them."""
    tasks = {asyncio.create_task(work()): index for index, work in enumerate(works)}
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield tasks[task], task.result()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
