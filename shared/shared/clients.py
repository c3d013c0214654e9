"""Typed clients of the two rooms. The same object may be used from several event loops and threads.

A batch is one call, whatever its size: it is split by the wire's limits, and over the instances when
there are several. Errors are those of errors.py; a refused request is never repeated, everything else
is, until the deadline. From sync code: `run(client.judge(jobs))`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from typing_extensions import Self

from shared.batches import split
from shared.errors import Broken, InvalidRequest, Unavailable
from shared.replies import R, read_as
from shared.tensors import Tensor
from shared.transport import Transport, one_call, run, tagged
from shared.wire import (
    Assurance,
    Capabilities,
    DecodeReply,
    DecodeRequest,
    ExecuteJob,
    ExecuteReply,
    ExecuteRequest,
    Execution,
    JudgeJob,
    JudgeReply,
    JudgeRequest,
    ModelCard,
    Program,
    PromptReply,
    TokenizeReply,
    TokenizeRequest,
    Verdict,
    Wire,
)
from shared.wire_latents import (
    EmbedReply,
    EmbedRequest,
    HiddenReply,
    HiddenRequest,
    LatentDecodeReply,
    LatentDecodeRequest,
    LatentLossReply,
    LatentLossRequest,
    Turn,
)
from shared.wire_plan import PlanJob, PlannedJob, PlanReply, PlanRequest

__all__ = ["DecoderClient", "SandboxClient", "run", "tagged"]

Q = TypeVar("Q")
A = TypeVar("A")


class _Client:
    """What both clients share: the transport's settings, counters and life time."""

    room = ""

    def __init__(
        self, urls: str | Sequence[str], *, token: str | None = None, deadline_s: float = 120.0,
        attempt_s: float | None = None, max_connections: int = 100, unreachable_s: float | None = None,
    ) -> None:  # fmt: skip
        """Connect lazily to one instance or several.

        deadline_s     total time of a call, with all its attempts and waits
        attempt_s      time of one attempt; the whole deadline when None
        unreachable_s  how long a call asks again where nothing listens; the whole deadline when None
        """
        limit = attempt_s if attempt_s is not None else deadline_s
        self._transport = Transport(
            self.room,
            urls,
            token=token,
            deadline_s=deadline_s,
            attempt_s=limit,
            max_connections=max_connections,
            unreachable_s=unreachable_s,
        )

    @property
    def requests(self) -> int:
        """HTTP requests sent, repeated ones counted."""
        return self._transport.requests

    @property
    def retries(self) -> int:
        """Requests that were sent again."""
        return self._transport.retries

    async def ready(self) -> bool:
        """Whether any instance says it is ready. Asks once, never raises for an outage."""
        return await self._transport.probe("/readyz")

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until an instance is ready; raise Unavailable after timeout_s."""
        end = asyncio.get_running_loop().time() + timeout_s
        while not await self.ready():
            if asyncio.get_running_loop().time() > end:
                urls = ", ".join(peer.url for peer in self._transport.peers)
                hint = f"start it (`psuedoptimal serve {self.room}`), look at its log, or correct the URL"
                raise Unavailable(f"{self.room} at {urls}: not ready after {timeout_s:g} s", hint=hint)
            await asyncio.sleep(0.2)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _get(self, path: str, kind: type[R]) -> R:
        return await self._transport.ask("GET", path, None, lambda reply: read_as(kind, reply))

    async def _send(self, path: str, body: Wire, kind: type[R]) -> R:
        return await self._transport.ask("POST", path, body, lambda reply: read_as(kind, reply))

    async def _post(
        self, path: str, body: Wire, kind: type[R], items: Callable[[R], list[A]], n: int
    ) -> list[A]:
        """Post one request and return its items; a reply with another number of them is Broken."""

        def read(reply: bytes) -> list[A]:
            found = items(read_as(kind, reply))
            if len(found) != n:
                hint = "client and service must be of the same version"
                raise Broken(f"{self.room}: {len(found)} answers for {n} items of {path}", hint=hint)
            return found

        return await self._transport.ask("POST", path, body, read)

    async def _batch(
        self, items: Sequence[Q], size: Callable[[Q], int], send: Callable[[list[Q]], Awaitable[list[A]]]
    ) -> list[A]:
        """Send the items in as few requests as the limits and the instances ask for; keep their order."""
        with one_call():
            parts = split(items, size, await self._transport.look_up())
            tasks = [asyncio.ensure_future(send(part)) for part in parts]
        try:
            return [answer for answers in await asyncio.gather(*tasks) for answer in answers]
        finally:
            # When one part fails its neighbours must not go on in the background.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class DecoderClient(_Client):
    """The frozen generator behind HTTP: messages to programs."""

    room = "decoder"

    async def decode(
        self, messages: Sequence[str], *, max_new_tokens: int = 512, temperature: float = 0.0,
        top_p: float = 1.0, seed: int = 0,
    ) -> list[Program]:  # fmt: skip
        """Return programs [N] for messages [N], in their order."""

        async def send(part: list[str]) -> list[Program]:
            body = _made(
                DecodeRequest, messages=part, max_new_tokens=max_new_tokens, temperature=temperature,
                top_p=top_p, seed=seed,
            )  # fmt: skip
            return await self._post("/v1/decode", body, DecodeReply, lambda reply: reply.programs, len(part))

        return await self._batch(messages, len, send)

    async def prompts(self, messages: Sequence[str]) -> list[str]:
        """Return what the generator reads for messages [N], in their order. Nothing is generated."""

        async def send(part: list[str]) -> list[str]:
            body = _made(DecodeRequest, messages=part)
            return await self._post("/v1/prompt", body, PromptReply, lambda reply: reply.prompts, len(part))

        return await self._batch(messages, len, send)

    async def tokenize(self, texts: Sequence[str]) -> list[int]:
        """Return how many of the generator's tokens each text has, [N]."""

        async def send(part: list[str]) -> list[int]:
            body = _made(TokenizeRequest, texts=part)
            return await self._post(
                "/v1/tokenize", body, TokenizeReply, lambda reply: reply.tokens, len(part)
            )

        return await self._batch(texts, len, send)

    async def latent_loss(
        self, latents: Tensor | None, conversations: Sequence[Sequence[Turn]], **options: Any
    ) -> LatentLossReply:
        """Return the loss of latent messages [N, K, D] and its gradient.

        options  the other fields of LatentLossRequest. One request whatever its size, since the KL's weights
                 hang together over the batch: it must stay below the service's body limit
        """
        turns = [list(conversation) for conversation in conversations]
        body = _made(LatentLossRequest, latents=latents, conversations=turns, **options)
        return await self._send("/v1/latents/loss", body, LatentLossReply)

    async def latent_decode(
        self, latents: Tensor | None, *, conversations: Sequence[Sequence[Turn]] | None = None, **options: Any
    ) -> list[Program]:
        """Return programs [N] for latent messages [N, K, D]: blind, or after conversations in a layout.

        options  the other fields of LatentDecodeRequest
        """
        turns = None if conversations is None else [list(each) for each in conversations]
        body = _made(LatentDecodeRequest, latents=latents, conversations=turns, **options)
        reply = await self._send("/v1/latents/decode", body, LatentDecodeReply)
        return reply.programs

    async def hidden(
        self, conversations: Sequence[Sequence[Turn]], **options: Any
    ) -> list[tuple[Tensor, str]]:
        """Return, for each conversation, the states [L, D] of what its assistant says, and that text.

        options  the other fields of HiddenRequest
        """

        async def send(part: list[Sequence[Turn]]) -> list[tuple[Tensor, str]]:
            body = _made(HiddenRequest, conversations=[list(each) for each in part], **options)
            return await self._post("/v1/latents/hidden", body, HiddenReply, _states, len(part))

        return await self._batch(conversations, lambda turns: sum(len(turn.content) for turn in turns), send)

    async def embed(
        self, texts: Sequence[str] | None = None, *, token_ids: Sequence[Sequence[int]] | None = None
    ) -> EmbedReply:
        """Return embeddings of texts or of tokens, one request, and the table's statistics."""
        ids = None if token_ids is None else [list(each) for each in token_ids]
        body = _made(EmbedRequest, texts=None if texts is None else list(texts), token_ids=ids)
        return await self._send("/v1/latents/embed", body, EmbedReply)

    async def model(self) -> ModelCard:
        """Return what the generator is; of several instances, one."""
        return await self._get("/v1/model", ModelCard)


class SandboxClient(_Client):
    """The judge behind HTTP: programs and tests to verdicts."""

    room = "sandbox"

    async def judge(self, jobs: Sequence[JudgeJob], *, min_assurance: Assurance = "rpc") -> list[Verdict]:
        """Return verdicts [N] for jobs [N], in their order."""

        async def send(part: list[JudgeJob]) -> list[Verdict]:
            body = _made(JudgeRequest, jobs=part, min_assurance=min_assurance)
            return await self._post("/v1/judge", body, JudgeReply, lambda reply: reply.verdicts, len(part))

        return await self._batch(jobs, _judge_size, send)

    async def plan(self, jobs: Sequence[PlanJob]) -> list[PlannedJob]:
        """Return how the tests of jobs [N] would be judged, in their order. Nothing is run."""

        async def send(part: list[PlanJob]) -> list[PlannedJob]:
            body = _made(PlanRequest, jobs=part)
            return await self._post("/v1/plan", body, PlanReply, lambda reply: reply.jobs, len(part))

        return await self._batch(jobs, _plan_size, send)

    async def execute(self, jobs: Sequence[ExecuteJob]) -> list[Execution]:
        """Return executions [N] for jobs [N], in their order."""

        async def send(part: list[ExecuteJob]) -> list[Execution]:
            body = _made(ExecuteRequest, jobs=part)
            return await self._post(
                "/v1/execute", body, ExecuteReply, lambda reply: reply.executions, len(part)
            )

        return await self._batch(jobs, lambda job: len(job.program), send)

    async def capabilities(self) -> Capabilities:
        """Return the jail in force and its capacity; of several instances, one."""
        return await self._get("/v1/capabilities", Capabilities)


def _states(reply: HiddenReply) -> list[tuple[Tensor, str]]:
    return list(zip(reply.hidden, reply.texts, strict=True))


def _plan_size(job: PlanJob) -> int:
    return sum(map(len, job.tests)) + len(job.setup)


def _judge_size(job: JudgeJob) -> int:
    scripts = sum(len(each.stdin) + len(each.stdout) for each in job.io)
    return len(job.program) + len(job.setup) + sum(map(len, job.tests)) + scripts


def _made(kind: type[R], **fields: Any) -> R:
    """Build a request; what the wire refuses is refused here already, in the same words."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        value = repr(first["input"])[:100]
        detail = f"{field}={value}: {first['msg']}"
        raise InvalidRequest(detail, hint="correct the value", field=field) from error
