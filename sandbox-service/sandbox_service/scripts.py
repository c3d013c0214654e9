"""Programs run whole, as scripts: judged by what they print (assurance `value`), or just run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from sandbox_service.judge_worker import printable
from sandbox_service.pool import Pool
from sandbox_service.run import Ended, Run
from shared.wire import InputOutput, Outcome, TestResult, Usage, Verdict

_OUTCOMES: dict[str, Outcome] = {
    "load_error": "raised",
    "exited": "failed",
    "crashed": "failed",
    "timeout": "timeout",
    "memory": "memory",
    "output_limit": "output_limit",
    "process_limit": "forbidden",
}


async def judge(run: Run, tests: Sequence[InputOutput], pool: Pool) -> Verdict:
    """Run the program once for each test, on as many lanes as are free, and compare what it prints here."""
    runs = [replace(run, calls=(), beside=(), serves=False, stdin=test.stdin) for test in tests]
    tasks = [asyncio.create_task(pool.run(one)) for one in runs]
    try:
        ends = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    parts = [_verdict(test, ended, pool.jail.name) for test, ended in zip(tests, ends, strict=True)]
    return joined(parts)


def _verdict(test: InputOutput, ended: Ended, jail: str) -> Verdict:
    result = _compared(test, ended)
    return Verdict(
        outcome=result.outcome,
        tests=[result],
        usage=Usage(cpu_ms=ended.cpu_ms, wall_ms=ended.wall_ms, memory_mb=ended.memory_mb),
        stdout_tail=ended.stdout_tail,
        stderr_tail=ended.stderr_tail,
        jail=jail,
        assurance="value",
    )


def _compared(test: InputOutput, ended: Ended) -> TestResult:
    if ended.how != "answered":
        message = printable(f"{ended.how}: {ended.detail}")
        return TestResult(outcome=_OUTCOMES[ended.how], message=message, wall_ms=ended.wall_ms)
    if ended.status:
        return TestResult(outcome="failed", message=f"exit status {ended.status}", wall_ms=ended.wall_ms)
    expected, got = lines(test.stdout), lines(ended.stdout.decode("utf-8", "surrogateescape"))
    if expected == got:
        return TestResult(outcome="passed", wall_ms=ended.wall_ms)
    at = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), None)
    if at is None:
        message = f"expected {len(expected)} lines, got {len(got)}"
    else:
        message = f"line {at + 1}: expected {_short(expected[at])}, got {_short(got[at])}"
    return TestResult(outcome="failed", message=printable(message), wall_ms=ended.wall_ms)


def lines(text: str) -> list[str]:
    """Return a text's lines without the spaces at their ends and without the empty ones at the text's."""
    found = [line.rstrip() for line in text.split("\n")]
    while found and not found[-1]:
        found.pop()
    return found


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def joined(parts: Sequence[Verdict]) -> Verdict:
    """Make one verdict of several over the same program: all tests, the sum of the times, the most memory."""
    tests = [test for part in parts for test in part.tests]
    memory = [part.usage.memory_mb for part in parts if part.usage.memory_mb is not None]
    usage = Usage(
        cpu_ms=sum(part.usage.cpu_ms for part in parts),
        wall_ms=sum(part.usage.wall_ms for part in parts),
        memory_mb=max(memory, default=None),
    )
    shown = next((part for part in parts if part.outcome != "passed"), parts[-1])
    weakest = min((part.assurance for part in parts), key=("in_sandbox", "rpc", "value").index)
    return shown.model_copy(
        update={
            "outcome": next((test.outcome for test in tests if test.outcome != "passed"), "passed"),
            "tests": tests,
            "usage": usage,
            "assurance": weakest,
        }
    )
