"""The judge: takes a job's tests apart, says what the jail has to answer, and turns answers into a verdict.

It never runs a program, and evaluates nothing itself: an answer that is the expected value's own bytes
passes, and whatever else a test asserts is evaluated by the worker behind `judge_link`. A verdict is passed
only if every single test gave a positive result of its own.

Levels of assurance. `value`: only values left the jail, and were compared here. `rpc`: the test runs in a
worker of the judge's and the program answers what it calls; the program sees what it is passed, and decides
nothing but what its own objects say of each other.
`in_sandbox`: tests that cannot be taken apart run beside the program, if that was asked for. The program can
forge those: it may replace what the test uses, or the answer itself. What still holds there: leaving early,
printing a report or dying is no pass.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandbox_service import objects, results, scripts
from sandbox_service.judge_link import CPU_S, Case, JudgeLink
from sandbox_service.judge_worker import Finding, printable
from sandbox_service.lint import ASK_NOTHING, ask_nothing, planned
from sandbox_service.pool import Pool, no_talk
from sandbox_service.results import Test
from sandbox_service.rpc_link import Talk, Workers
from sandbox_service.rpc_plan import NotRemote, Remote, remote, tests_nothing
from sandbox_service.run import Answer, Ended, Run
from sandbox_service.split import Refusal, Split, split
from shared.errors import InvalidRequest
from shared.wire import Assurance, InputOutput, JudgeJob, TestResult, Usage, Verdict
from shared.wire_plan import PlanJob, PlannedJob

_CACHED_PLANS = 4096
_CACHED_CHARACTERS = 50_000
_NAMED_REFUSALS = 5
_PASSED = Finding("passed", "")

_STRENGTH: dict[Assurance, int] = {"in_sandbox": 0, "rpc": 1, "value": 2}


@dataclass(frozen=True)
class Plan:
    """How one job is judged: its tests apart, and the run a jail has to do.

    A `Split` is evaluated over the run's answers, a `Remote` asks the run, a `Refusal` runs beside it.
    """

    tests: tuple[Test, ...]
    run: Run
    io: tuple[InputOutput, ...] = ()
    least: Assurance = "rpc"

    @property
    def runs(self) -> int:
        """How many runs of the program it takes."""
        return len(self.io) + bool(self.tests)

    @property
    def remote(self) -> tuple[Remote, ...]:
        """The tests that ask the run."""
        return tuple(test for test in self.tests if isinstance(test, Remote))

    @property
    def assurance(self) -> Assurance:
        """The weakest of the tests'."""
        return "in_sandbox" if self.run.beside else "rpc" if self.run.serves else "value"


class Judge:
    """Plans and verdicts. Holds a cache of tests taken apart, and the link to the worker."""

    def __init__(self, cpu_s: float = CPU_S, talks: int = 1) -> None:
        self.link = JudgeLink(cpu_s)
        self.workers = Workers(talks)
        self._split: OrderedDict[tuple[tuple[str, ...], str], tuple[Test, ...]] = OrderedDict()

    async def aclose(self) -> None:
        """End the workers."""
        await self.link.aclose()
        await self.workers.aclose()

    def plan(self, job: JudgeJob, min_assurance: Assurance = "rpc") -> Plan:
        """Take a job's tests apart. The plan depends on the program in nothing but carrying it.

        raises  InvalidRequest naming each test below `min_assurance`, its line, the reason and the way out
        """
        if not job.tests:
            return Plan((), Run(job.program, job.setup, (), job.limits), tuple(job.io))
        tests = self._taken_apart(tuple(job.tests), job.setup)
        refused = [(i, test) for i, test in enumerate(tests) if isinstance(test, Refusal)]
        broken = [(i, test) for i, test in refused if test.broken]
        if broken or (refused and _STRENGTH[min_assurance] > _STRENGTH["in_sandbox"]):
            raise _refusal(broken or refused, bool(broken))
        remote = [i for i, test in enumerate(tests) if isinstance(test, Remote)]
        if remote and min_assurance == "value":
            raise InvalidRequest(
                f"tests[{remote[0]}] runs in the judge and asks the program, and is judged at `rpc`",
                field=f"tests[{remote[0]}]",
                hint='rewrite it as `assert f(...) == value`, or ask for min_assurance "rpc"',
            )
        if ask_nothing(tests):
            hint = "let at least one test call what is to be judged"
            raise InvalidRequest(ASK_NOTHING, field="tests", hint=hint)
        calls = tuple(call for test in tests if isinstance(test, Split) for call in test.calls)
        beside = tuple(test.source for test in tests if isinstance(test, Refusal))
        run = Run(job.program, job.setup, calls, job.limits, beside=beside, serves=bool(remote))
        return Plan(tests, run, tuple(job.io), min_assurance)

    def lint(self, job: PlanJob) -> PlannedJob:
        """Say how a task's tests would be judged. Never raises: what cannot be judged is an answer too."""
        return planned(self._taken_apart(tuple(job.tests), job.setup))

    def _taken_apart(self, tests: tuple[str, ...], setup: str) -> tuple[Test, ...]:
        key = tests, setup
        found = self._split.get(key)
        if found is not None:
            self._split.move_to_end(key)
            return found
        found = tuple(_asked(test, setup) for test in split(tests, setup))
        if sum(map(len, tests)) + len(setup) <= _CACHED_CHARACTERS:
            self._split[key] = found
            if len(self._split) > _CACHED_PLANS:
                self._split.popitem(last=False)
        return found

    async def judge(self, plan: Plan, pool: Pool) -> Verdict:
        """Run a plan and judge it.

        raises  Broken when a worker fails: no verdict, never a failed one; InvalidRequest where a test
                turns out to pass something to the program that cannot cross
        """
        parts = []
        if plan.tests:
            ended, found = await self._run(plan.run, plan.remote, pool)
            verdict = await self.verdict(plan, ended, pool.jail.name, found)
            parts.append(await self._asked_again(plan, ended, verdict, pool))
        if plan.io:
            parts.append(await scripts.judge(plan.run, plan.io, pool))
        return parts[0] if len(parts) == 1 else scripts.joined(parts)

    async def _run(
        self, run: Run, tests: Sequence[Remote], pool: Pool
    ) -> tuple[Ended, list[tuple[Finding, float]]]:
        """Run a program and the tests in the judge that ask it; return also what those found."""
        talks: list[Talk] = []

        def talk() -> Talk:
            talks.append(Talk(self.workers, tests, run.limits))
            return talks[-1]

        try:
            ended = await pool.run(run, talk if run.serves else no_talk)
            return ended, await talks[-1].finished() if talks else []
        finally:
            for one in talks:
                one.cancel()

    async def _asked_again(self, plan: Plan, ended: Ended, verdict: Verdict, pool: Pool) -> Verdict:
        """Give tests that failed over an object without a value their second hearing; see `objects`."""
        if plan.least == "value":
            return verdict
        shares = results.shares(plan.tests, plan.run, ended.answers)
        again = objects.to_ask_again(plan.tests, shares, verdict.tests, plan.run.setup)
        if not again:
            return verdict
        run = replace(plan.run, calls=(), beside=(), serves=True)
        ended, found = await self._run(run, tuple(again.values()), pool)
        return objects.amended(verdict, tuple(again), found, ended)

    async def verdict(
        self, plan: Plan, ended: Ended, jail: str, remote: Sequence[tuple[Finding, float]] = ()
    ) -> Verdict:
        """Judge what came back: `ended` of the run, and what the tests in the judge found, each with its
        milliseconds. Raises as `judge` does."""
        shares = results.shares(plan.tests, plan.run, ended.answers)
        taken = [
            (test, share) for test, share in zip(plan.tests, shares, strict=True) if isinstance(test, Split)
        ]
        findings = iter(await self._compared(taken))
        found = iter(remote)
        tests = []
        for i, (test, share) in enumerate(zip(plan.tests, shares, strict=True)):
            if isinstance(test, Split):
                tests.append(results.split(next(findings), share, ended))
            elif isinstance(test, Remote):
                tests.append(results.remote(i, *next(found, (Finding("missing", ""), 0.0)), ended))
            else:
                tests.append(results.beside(share[0], ended))
        if ended.how != "answered" and all(test.outcome == "passed" for test in tests):
            tests[-1] = TestResult(
                outcome=results.OUTCOMES[ended.how],
                message=results.said(ended),
                assurance=tests[-1].assurance,
            )
        return Verdict(
            outcome=next((test.outcome for test in tests if test.outcome != "passed"), "passed"),
            tests=tests,
            usage=Usage(cpu_ms=ended.cpu_ms, wall_ms=ended.wall_ms, memory_mb=ended.memory_mb),
            stdout_tail=ended.stdout_tail,
            stderr_tail=ended.stderr_tail,
            jail=jail,
            assurance=plan.assurance,
        )

    async def _compared(self, taken: Sequence[tuple[Split, tuple[Answer, ...]]]) -> list[Finding]:
        """Return what came of each test over its answers; the worker is asked of those that do not plainly
        pass. Raises as `judge` does."""
        plain = [_passes(test, share) for test, share in taken]
        cases = [
            Case(test.remainder, test.calls, share)
            for (test, share), passes in zip(taken, plain, strict=True)
            if not passes
        ]
        asked = iter(await self.link.evaluate(cases))
        return [_PASSED if passes else next(asked) for passes in plain]


def _passes(test: Split, share: Sequence[Answer]) -> bool:
    """Whether the one answer is, byte for byte, what the test passes with."""
    return bool(test.passing) and share[0].status == "value" and share[0].payload == test.passing


def _refusal(refused: Sequence[tuple[int, Refusal]], broken: bool) -> InvalidRequest:
    named = [
        f"tests[{i}], line {test.line}: {printable(test.reason)}" for i, test in refused[:_NAMED_REFUSALS]
    ]
    if len(refused) > _NAMED_REFUSALS:
        named.append(f"and {len(refused) - _NAMED_REFUSALS} more")
    way = "correct it" if broken else (
        'rewrite it as `assert f(...) == value`, or ask for min_assurance "in_sandbox", which can be forged'
    )  # fmt: skip
    return InvalidRequest("; ".join(named), field=f"tests[{refused[0][0]}]", hint=way)


def _asked(test: Split | Refusal, setup: str) -> Test:
    """A test that cannot be taken apart runs in the judge, if it can; else both reasons are given."""
    if isinstance(test, Split) or test.broken:
        return test
    try:
        return replace(remote(test.source, setup), line=test.line, reason=test.reason)
    except NotRemote as why:
        if nothing := tests_nothing(test.source, setup):
            return Refusal(test.source, nothing.line, str(nothing), nothing=True)
        reason = f"{test.reason}; nor can it run in the judge: line {why.line}: {why}"
        return Refusal(test.source, test.line, reason)
