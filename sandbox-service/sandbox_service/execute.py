"""POST /v1/execute: run a program and bring back one variable, without any test."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sandbox_service.decode import CodecError, parse
from sandbox_service.judge_link import Case, JudgeLink
from sandbox_service.run import Answer, Ended, How, Run
from shared.errors import Unsupported
from shared.wire import ExecuteJob, Execution, Outcome, Usage

_OUTCOMES: dict[How, Outcome] = {
    "answered": "failed",
    "load_error": "raised",
    "exited": "failed",
    "crashed": "failed",
    "timeout": "timeout",
    "memory": "memory",
    "output_limit": "output_limit",
    "process_limit": "forbidden",
}


def plan(job: ExecuteJob) -> Run:
    """Return the run for a job; raises Unsupported for a preamble that this installation does not have."""
    setup = _preamble(job.preamble) if job.preamble else ""
    return Run(job.program, setup, (), job.limits, result=job.result)


def _preamble(name: str) -> str:
    found = importlib.util.find_spec(f"shared.{name}")
    if found is None or found.origin is None:
        raise Unsupported(
            f"preamble={name!r}: not in this installation", field="jobs.preamble", hint="leave it out"
        )
    return Path(found.origin).read_text(encoding="utf-8")


async def execution(job: ExecuteJob, ended: Ended, jail: str, link: JudgeLink) -> Execution:
    """Say how a job went. The value stays in the codec's form: nothing of it is built here, but a judge's
    worker has built it, so that it is one."""
    outcome, value, message = _judged(job, ended)
    if outcome == "passed":
        (finding,) = await link.evaluate([Case("H[0]", (job.result,), ended.answers)])
        if finding.outcome != "passed":
            outcome, value, message = "failed", None, f"{job.result}: {finding.message}"
    return Execution(
        outcome=outcome,
        value=value,
        message=message,
        usage=Usage(cpu_ms=ended.cpu_ms, wall_ms=ended.wall_ms, memory_mb=ended.memory_mb),
        stdout_tail=ended.stdout_tail,
        stderr_tail=ended.stderr_tail,
        jail=jail,
    )


def _judged(job: ExecuteJob, ended: Ended) -> tuple[Outcome, object, str]:
    if ended.how != "answered":
        return _OUTCOMES[ended.how], None, f"{ended.how}: {ended.detail}"
    answer: Answer = ended.answers[0]
    if answer.status == "raised":
        text = answer.payload.decode("utf-8", "replace")
        return ("memory" if text.startswith("MemoryError") else "raised"), None, text
    try:
        value = parse(answer.payload)
    except CodecError as error:
        return "failed", None, f"{job.result}: {error}"
    if isinstance(value, list) and value[:1] == ["x"]:
        return "failed", None, f"{job.result} is of a type that is not carried: {str(value[1:2])[:200]}"
    return "passed", value, ""
