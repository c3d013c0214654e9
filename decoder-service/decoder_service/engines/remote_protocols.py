"""How other people's servers are spoken to: TGI's /generate, OpenAI's chat and completions routes.

Only the given URL is asked: no proxy of the environment, no redirect, no token found on this machine, no
provider routing. huggingface_hub's AsyncInferenceClient speaks TGI and chat; it has no legacy completions.
Neither client has a timeout of its own, since those are per read: `within` bounds the whole of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import httpx
import httpx2
from huggingface_hub import AsyncInferenceClient, set_async_client_factory
from huggingface_hub.errors import HfHubHTTPError, OverloadedError, TextGenerationError
from huggingface_hub.errors import ValidationError as TgiValidationError

from decoder_service.engines.engine import Decoding
from decoder_service.prompts import Turn
from shared.errors import Broken, DeadlineExceeded, InvalidRequest, Overloaded, RoomError, Unavailable
from shared.problems import shorten
from shared.transport import certificates

R = TypeVar("R")

_HINT = "start it, or correct DECODER_REMOTE_URL"


class Reply(NamedTuple):
    """What a server generated; tokens is None where it does not count them."""

    text: str
    tokens: int | None
    stopped: bool


class About(NamedTuple):
    """What a server says of itself, as far as it does."""

    model: str | None = None
    revision: str | None = None
    version: str | None = None
    max_total_tokens: int | None = None


@dataclass(frozen=True)
class Remote:
    """Where the server is and how it is asked."""

    url: str
    token: str | None
    timeout_s: float
    connections: int

    def open(self) -> tuple[AsyncInferenceClient, httpx.AsyncClient]:
        """Return the two clients, both bound to this URL."""
        limits = {"max_connections": self.connections, "max_keepalive_connections": self.connections}

        async def no_redirect(response: httpx2.Response) -> None:
            if response.is_redirect:
                raise _refused(self, response.status_code, "", None)

        # Of the asynchronous clients alone: what is downloaded from the hub uses the other ones.
        set_async_client_factory(
            lambda: httpx2.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                limits=httpx2.Limits(**limits),
                timeout=None,
                event_hooks={"response": [no_redirect]},
            )
        )
        # An explicit header, None included: without it the client would send this machine's own hub token.
        headers: dict[str, Any] = {"authorization": f"Bearer {self.token}" if self.token else None}
        hub = AsyncInferenceClient(
            provider="hf-inference", timeout=None, headers=headers, token=self.token or "unused"
        )
        own = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            verify=certificates(),
            limits=httpx.Limits(**limits),
            timeout=None,
            headers={name: value for name, value in headers.items() if value},
        )
        return hub, own


class _Protocol:
    """model: its name there, where one is needed."""

    model: str | None = None

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._hub, self._own = remote.open()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._own.aclose()
        await self._hub.close()  # type: ignore[no-untyped-call]


class Tgi(_Protocol):
    """text-generation-inference: POST /generate, GET /info."""

    async def about(self) -> About:
        """Ask /info."""
        info = await _json(self._remote, self._own, "/info")
        return About(
            info.get("model_id"), info.get("model_sha"), info.get("version"), info.get("max_total_tokens")
        )

    async def ask(self, turns: list[Turn], prompt: str, decoding: Decoding, seed: int) -> Reply:
        """Generate from a prompt."""
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "seed": seed}
            if decoding.top_p < 1:
                sampling["top_p"] = decoding.top_p

        async def call() -> Reply:
            out = await self._hub.text_generation(
                prompt,
                model=f"{self._remote.url}/generate",
                details=True,
                max_new_tokens=decoding.max_new_tokens,
                return_full_text=False,
                **sampling,
            )
            if out.details is None:
                raise _unreadable(self._remote, "it has no details")
            stopped = has_stopped(self._remote, out.details.finish_reason)
            return Reply(out.generated_text, out.details.generated_tokens, stopped)

        return await translated(self._remote, call)


class Chat(_Protocol):
    """An OpenAI-compatible server: POST /v1/chat/completions. The server applies its own chat template."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(remote)
        # To this client the URL is the model; the model's name goes into the body.
        self._hub.model = f"{remote.url}/v1/chat/completions"

    async def about(self) -> About:
        """Ask /v1/models; a server without that route is one that says nothing."""
        return await _models(self._remote, self._own, self.model)

    async def ask(self, turns: list[Turn], prompt: str, decoding: Decoding, seed: int) -> Reply:
        """Generate the assistant's turn."""

        async def call() -> Reply:
            out = await self._hub.chat_completion(
                turns,
                model=self.model,
                max_tokens=decoding.max_new_tokens,
                temperature=decoding.temperature,
                **_sampling(decoding, seed),
            )
            choice = out.choices[0]
            stopped = has_stopped(self._remote, choice.finish_reason)
            return Reply(choice.message.content or "", _counted(out.usage), stopped)

        return await translated(self._remote, call)


class Completions(_Protocol):
    """An OpenAI-compatible server: POST /v1/completions, the prompt as this service words it."""

    async def about(self) -> About:
        """Ask /v1/models; a server without that route is one that says nothing."""
        return await _models(self._remote, self._own, self.model)

    async def ask(self, turns: list[Turn], prompt: str, decoding: Decoding, seed: int) -> Reply:
        """Continue a prompt."""
        body = {
            "prompt": prompt,
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            **_sampling(decoding, seed),
        }
        if self.model:
            body["model"] = self.model

        async def call() -> Reply:
            reply = await self._own.post(f"{self._remote.url}/v1/completions", json=body)
            if reply.status_code != 200:
                raise _refused(self._remote, reply.status_code, reply.text, reply.headers.get("retry-after"))
            found = reply.json()
            choice = found["choices"][0]
            tokens = (found.get("usage") or {}).get("completion_tokens")
            stopped = has_stopped(self._remote, choice.get("finish_reason"))
            return Reply(str(choice["text"]), tokens, stopped)

        return await translated(self._remote, call)


def has_stopped(remote: Remote, reason: str | None) -> bool:
    """Whether a generation came to its own end; False where it came to max_new_tokens.

    reason   finish_reason as the server says it, None where it says none
    raises   Unavailable where it was left off, as by vLLM's and SGLang's "abort", which come with a 200:
             a trainer asks again, and stops if that does not help;
             InvalidRequest where its message led to no program, but to a filter or to a tool nobody
             offered: a trainer counts that message as refused, and goes on
    """
    match reason:
        case "length":
            return False
        case None | "stop" | "eos" | "eos_token" | "stop_sequence":
            return True
        case "content_filter" | "tool_calls" | "function_call":
            hint = "another message, or a server that neither filters nor calls tools"
            detail = f"{remote.url}: no program, the generation ended with {reason!r}"
            raise InvalidRequest(detail, hint=hint, field="messages")
    detail = f"{remote.url}: the generation was left off ({shorten(str(reason), 100)!r})"
    raise Unavailable(detail, hint="look at the server's log", retry_after_s=1)


@asynccontextmanager
async def within(remote: Remote, limit_s: float) -> AsyncIterator[None]:
    """Bound all that is asked inside, also of a server that answers drop by drop.

    raises   DeadlineExceeded
    """
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        hint = "raise DECODER_REMOTE_TIMEOUT_S or lower max_new_tokens"
        raise DeadlineExceeded(f"{remote.url}: no answer in {limit_s:g} s", hint=hint) from error


async def translated(remote: Remote, call: Callable[[], Awaitable[R]]) -> R:
    """Call, and turn whatever the two clients raise into this service's errors."""
    try:
        return await call()
    except (httpx.TransportError, httpx2.TransportError) as error:
        detail = f"{remote.url}: not reachable ({shorten(str(error)) or type(error).__name__})"
        raise Unavailable(detail, hint=_HINT) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        wait = error.response.headers.get("retry-after")
        raise _refused(remote, status, _text_of(error), wait) from error
    except OverloadedError as error:
        raise Overloaded(f"{remote.url}: {shorten(str(error), 300)}", retry_after_s=1) from error
    except TgiValidationError as error:
        raise _refused(remote, 422, str(error), None) from error
    except TextGenerationError as error:
        raise Broken(f"{remote.url}: generation failed: {shorten(str(error), 300)}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _unreadable(remote, f"{type(error).__name__}: {error}") from error


def _text_of(error: HfHubHTTPError) -> str:
    try:
        return error.response.text
    except (RuntimeError, ValueError):
        return str(error)


def _refused(remote: Remote, status: int, text: str, wait: str | None) -> RoomError:
    said = f"{remote.url}: HTTP {status}: {shorten(text, 300)}"
    seconds = float(wait) if wait is not None and wait.isdigit() else 1.0
    if status == 429:
        return Overloaded(said, hint="lower DECODER_REMOTE_CONNECTIONS", retry_after_s=seconds)
    if status in (400, 413, 422):
        return InvalidRequest(said, hint="a shorter message or a lower max_new_tokens", field="messages")
    if status in (401, 403):
        return Broken(said, hint="set DECODER_REMOTE_TOKEN_FILE to a file with the server's token")
    if 300 <= status < 400:
        return Broken(said, hint="redirects are not followed; set DECODER_REMOTE_URL to where it points")
    if status == 404:
        return Broken(said, hint="is DECODER_REMOTE_API the one this server has?")
    if status in (502, 503, 504):
        return Unavailable(said, hint=_HINT, retry_after_s=seconds)
    return Broken(said, hint="look at the server's log")


def _unreadable(remote: Remote, why: str) -> Broken:
    hint = "is DECODER_REMOTE_API the one this server has?"
    return Broken(f"{remote.url}: the answer cannot be read ({shorten(why, 200)})", hint=hint)


async def _json(remote: Remote, own: httpx.AsyncClient, path: str) -> dict[str, Any]:
    async def call() -> dict[str, Any]:
        reply = await own.get(remote.url + path)
        if reply.status_code != 200:
            raise _refused(remote, reply.status_code, reply.text, reply.headers.get("retry-after"))
        found: dict[str, Any] = reply.json()
        return found

    async with within(remote, min(10.0, remote.timeout_s)):
        return await translated(remote, call)


async def _models(remote: Remote, own: httpx.AsyncClient, model: str | None) -> About:
    try:
        listed = (await _json(remote, own, "/v1/models")).get("data") or [{}]
    except Broken:
        return About()
    names = [str(each.get("id")) for each in listed]
    lengths = [each.get("max_model_len") for each in listed if each.get("id") in (model, names[0])]
    most = lengths[0] if lengths and isinstance(lengths[0], int) else None
    return About(model=names[0] if len(names) == 1 and listed[0] else None, max_total_tokens=most)


def _sampling(decoding: Decoding, seed: int) -> dict[str, Any]:
    return {"top_p": decoding.top_p, "seed": seed} if decoding.temperature > 0 else {}


def _counted(usage: Any) -> int | None:
    return None if usage is None else usage.completion_tokens
