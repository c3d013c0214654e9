"""One batch of messages through both services: decoded in one request, judged in one request.

Knows tasks and services, no model and no reward. An outage is an error here, never an outcome; a program
that fails is an outcome, never an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from shared.clients import DecoderClient, SandboxClient
from shared.clients import run as run_async
from shared.errors import InvalidRequest, NoAnswer
from shared.wire import MAX_TEXT, Capabilities, JudgeJob, ModelCard, Outcome, Verdict
from trainer.bearer import read_token
from trainer.config import ConfigError
from trainer.config_text import Services, TextConfig
from trainer.runs import Run
from trainer.tasks.task import Task

logger = logging.getLogger(__name__)

T = TypeVar("T")
REASON_LENGTH = 500
POLL_S = 0.2
# What every decoder and every sandbox takes: refused as well, it shows that the message is not at fault.
HARMLESS = "pass\n"


class TaskRefused(ConfigError):
    """The judge will not take a task whatever the program: the data set is at fault, not the student."""


class Finding(NamedTuple):
    """What the judge found of one program, as far as a run keeps it. No assurance if nothing was judged.

    outcome  the verdict's; `refused`: the decoder does not take the message, e.g. too long for its context
    """

    outcome: Outcome | Literal["refused"]
    assurance: str = ""


class Outcomes(NamedTuple):
    """What became of one batch of messages.

    programs    [N] the decoded program
    findings    [N] what the judge found; `output_limit` for a program too long to be sent to it
    unique      distinct (task, message) pairs
    decode_s, sandbox_s  seconds spent waiting for each service
    """

    programs: list[str]
    findings: list[Finding]
    unique: int
    decode_s: float
    sandbox_s: float


class Exchange:
    """The two clients of a run. Use it on one event loop only, and as `async with`."""

    def __init__(self, config: Services, *, deadline_s: float | None = None) -> None:
        """Make the clients; nothing is sent yet.

        deadline_s  how long an outage is waited for; the config's if not given
        raises      ConfigError without both URLs or with an unreadable token file
        """
        if not config.decoder_url or not config.sandbox_url:
            raise ConfigError(
                "decoder_url and sandbox_url are needed here; start both with `psuedoptimal serve`"
            )
        self.config = config
        wait_s = config.deadline_s if deadline_s is None else deadline_s
        self.decoder = DecoderClient(
            config.decoder_url, token=read_token(config.decoder_token_file), deadline_s=wait_s
        )
        self.sandbox = SandboxClient(
            config.sandbox_url, token=read_token(config.sandbox_token_file), deadline_s=wait_s
        )

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close both clients' connections."""
        await self.decoder.aclose()
        await self.sandbox.aclose()

    @property
    def retries(self) -> int:
        """Requests that were sent again, both services together."""
        return int(self.decoder.retries + self.sandbox.retries)

    async def outcomes(self, tasks: Sequence[Task], messages: Sequence[str]) -> Outcomes:
        """Decode the distinct messages, judge the distinct (task, message) pairs.

        tasks     [N] the task each message is about; the decoder is not told
        messages  [N] what was sent
        raises    NoAnswer in an outage that outlasts the deadline; TaskRefused for a task the judge refuses;
                  RequestRefused for what no message is to blame for, e.g. a wrong token
        """
        pairs = list(dict.fromkeys(zip([t.task_id for t in tasks], messages, strict=True)))
        by_id = {task.task_id: task for task in tasks}
        sent = list(dict.fromkeys(message for _, message in pairs))
        start = time.monotonic()
        program_of = dict(zip(sent, await self._decode(sent), strict=True))
        decode_s = time.monotonic() - start
        start = time.monotonic()
        decoded = [pair for pair in pairs if program_of[pair[1]] is not None]
        judged = await self._judge([(by_id[task_id], program_of[text] or "") for task_id, text in decoded])
        sandbox_s = time.monotonic() - start
        outcome_of = dict(zip(decoded, judged, strict=True))
        asked = zip([task.task_id for task in tasks], messages, strict=True)
        return Outcomes(
            [program_of[message] or "" for message in messages],
            [outcome_of.get(pair, Finding("refused")) for pair in asked],
            len(pairs), decode_s, sandbox_s,
        )  # fmt: skip

    async def _decode(self, messages: Sequence[str]) -> list[str | None]:
        """Return the programs [N]; None for a message that is refused by itself.

        raises  InvalidRequest where even a harmless message is refused
        """
        programs = await self._halved(messages)
        if programs and not any(program is not None for program in programs):
            await self._send([HARMLESS])
        return programs

    async def _halved(self, messages: Sequence[str]) -> list[str | None]:
        """Decode in one request; if it is refused, in halves, down to the messages whose fault that is."""
        try:
            return [*await self._send(messages)]
        except InvalidRequest:
            half = len(messages) // 2
            if not half:
                return [None]
            return await self._halved(messages[:half]) + await self._halved(messages[half:])

    async def _send(self, messages: Sequence[str]) -> list[str]:
        programs = await self.decoder.decode(
            messages,
            max_new_tokens=self.config.max_program_tokens,
            temperature=self.config.generator_temperature,
        )
        return [program.text for program in programs]

    async def _judge(self, work: Sequence[tuple[Task, str]]) -> list[Finding]:
        """Return the findings [N]. One judgement serves every message that became the same program."""
        sendable = {(t.task_id, p): job_of(t, p, self.config) for t, p in work if len(p) <= MAX_TEXT}
        try:
            verdicts = await self._verdicts(list(sendable.values()))
        except InvalidRequest:
            verdicts = [await self._verdict_or_blame(task_id, job) for (task_id, _), job in sendable.items()]
        found = {
            key: Finding("forbidden") if verdict is None else Finding(verdict.outcome, verdict.assurance)
            for key, verdict in zip(sendable, verdicts, strict=True)
        }
        return [found.get((task.task_id, program), Finding("output_limit")) for task, program in work]

    async def _verdicts(self, jobs: Sequence[JudgeJob]) -> list[Verdict | None]:
        return list(await self.sandbox.judge(jobs, min_assurance=self.config.min_assurance)) if jobs else []

    async def _verdict_or_blame(self, task_id: str, job: JudgeJob) -> Verdict | None:
        """Judge one job by itself; if it is refused, find out by an empty program whose fault that is.

        returns  the verdict, or None where only this program is refused
        raises   TaskRefused where the task is
        """
        try:
            return (await self._verdicts([job]))[0]
        except InvalidRequest as refused:
            try:
                await self._verdicts([job.model_copy(update={"program": HARMLESS})])
            except InvalidRequest as error:
                reason = str(error)[:REASON_LENGTH]
                raise TaskRefused(
                    f"task {task_id}: the sandbox refuses its tests or setup: {reason}; correct the data "
                    "set, leave the task out, or lower min_assurance"
                ) from refused
            return None

    async def identities(self) -> Identities:
        """Return who decodes and who judges. Raises RoomError."""
        return Identities(await self.decoder.model(), await self.sandbox.capabilities())


class Patience(Protocol):
    """The settings that say how long an outage is waited for; see Services."""

    @property
    def deadline_s(self) -> float: ...

    @property
    def max_outages(self) -> int: ...


async def patiently(
    ask: Callable[[], Awaitable[T]], config: Patience, stopping: Callable[[], bool] = lambda: False
) -> T:
    """Ask until there is an answer, at most max_outages times.

    ask       waits deadline_s for a service that is away
    stopping  whether to give up after the try at hand
    raises    NoAnswer after the last try
    """
    for tried in range(1, config.max_outages + 1):
        try:
            return await ask()
        except NoAnswer as error:
            logger.warning("no answer, try %d of %d: %s", tried, config.max_outages, error)
            last = error
        if stopping():
            break
    raise NoAnswer(
        f"the services gave no answer, {tried} times in {config.deadline_s:g} s each: {last}",
        hint="look at their logs (`psuedoptimal doctor`)",
    ) from last


async def unless_stopped(work: Awaitable[T], retries: Callable[[], int], stopping: Callable[[], bool]) -> T:
    """Return what `work` comes to; give up when the run is to stop and a service is away.

    retries  how often a service was asked in vain; more than at the start means that one is away
    raises   NoAnswer, and what `work` raises
    """
    before, task = retries(), asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=POLL_S))[0]:
            if stopping() and retries() > before:
                raise NoAnswer("the run is to stop, and a service is away")
        return task.result()
    finally:
        task.cancel()


class Identities(NamedTuple):
    """What services.json holds."""

    decoder: ModelCard
    sandbox: Capabilities


def introduced(config: Services) -> Identities:
    """Wait for both services and return what they are. Raises RoomError, at once if another one answers."""

    async def ask() -> Identities:
        async with Exchange(config) as exchange:
            return await exchange.identities()

    return run_async(ask())


def introduce(config: TextConfig, run: Run | None) -> None:
    """Wait for both services, check who decodes, and note both in services.json. Loads no model.

    raises  RoomError; ConfigError for another generator
    """

    found = introduced(config)
    check_generator(config.generator_model, found.decoder)
    if run is not None:
        run.write_json("services.json", {
            "decoder": found.decoder.model_dump(mode="json"),
            "sandbox": found.sandbox.model_dump(mode="json"),
        })  # fmt: skip


def job_of(task: Task, program: str, config: Services) -> JudgeJob:
    """Return what the judge is sent: the program and the task's tests, never its description.

    raises  TaskRefused for a task that no request can hold, e.g. one without tests
    """
    try:
        return JudgeJob(program=program, tests=list(task.tests), setup=task.setup, limits=config.limits)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "tests"
        raise TaskRefused(f"task {task.task_id}: {where}: {first['msg']}; correct the data set") from error


def check_generator(wanted: str | None, card: ModelCard) -> None:
    """Refuse a decoder service that runs another model than the run asks for.

    wanted  generator_model; None takes whatever is there
    raises  ConfigError naming both
    """
    if wanted and wanted.rstrip("/") != card.name.rstrip("/") and Path(wanted).name != Path(card.name).name:
        raise ConfigError(
            f"generator_model={wanted!r}, but the decoder service runs {card.name!r}; start it with "
            f"DECODER_MODEL={wanted} or leave --generator-model out (--generator-model none)"
        )
