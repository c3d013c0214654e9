"""Engine `remote`: a TGI, vLLM, SGLang, llama.cpp or `transformers serve` elsewhere. Needs no torch.

The prompt is the decoder's own, as on engine `hf`. What this engine does not promise: that the server
reads marks such as <|im_end|> inside a message as plain text, that its answers do not depend on their
neighbours, and that a request already sent is taken back when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.metadata import version

import httpx

from decoder_service.engines.engine import Decoding, Feed, Row, Wanted, always, work_one_batch
from decoder_service.engines.loop_thread import LoopThread
from decoder_service.engines.remote_protocols import About, Chat, Completions, Remote, Reply, Tgi, within
from decoder_service.prompts import conversation, plain_text, read_examples, template_sha256
from decoder_service.replies import program_of
from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest, RoomError, Unavailable, Unsupported
from shared.wire import ModelCard, Program

# Of a prompt whose tokenizer is not known here: only batches and the queue are sized by it.
_BYTES_PER_TOKEN = 3


class RemoteEngine:
    """One server. Rows are separate requests, as many at a time as there are connections."""

    latents = None

    def __init__(
        self,
        settings: DecoderSettings,
        remote: Remote,
        protocol: Tgi | Chat | Completions,
        about: About,
        loop: LoopThread,
    ) -> None:
        self._remote, self._protocol, self._loop = remote, protocol, loop
        self._api = settings.remote_api
        self._examples = read_examples(settings.few_shot)
        self._prompting = None
        if settings.remote_tokenizer is not None:
            # Here, not above: without a tokenizer of its own this engine needs no transformers.
            from decoder_service.engines.load_errors import reading
            from decoder_service.engines.prompting import Prompting
            from decoder_service.engines.tokenizer import load_tokenizer

            named = settings.remote_tokenizer
            with reading(settings, named, "tokenizer", "DECODER_REMOTE_TOKENIZER"):
                tokenizer = load_tokenizer(named, {})
                self._prompting = Prompting(tokenizer, self._examples)
        self.context_tokens = about.max_total_tokens if self._prompting else None
        worded = "chat" if self._api == "chat" else None
        self._card = ModelCard(
            name=settings.model or about.model or "unknown",
            engine="remote",
            revision=about.revision,
            quantization="unknown",
            dtype="unknown",
            device="remote",
            template_sha256=self._prompting.template_sha256
            if self._prompting
            else template_sha256(self._examples, worded),
            libraries={
                "api": self._api,
                "huggingface_hub": version("huggingface_hub"),
                **({"server": about.version} if about.version else {}),
            },
        )

    def card(self) -> ModelCard:
        """Return what the server says of itself; what it does not say is unknown."""
        return self._card

    def prepare(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each message's prompt in tokens; without a tokenizer, placeholders of about that number."""
        if self._prompting is not None:
            return self._prompting.token_ids(messages)
        lengths = [len(self._prompt(message).encode("utf-8", "replace")) for message in messages]
        return [(0,) * (1 + length // _BYTES_PER_TOKEN) for length in lengths]

    def prompts(self, messages: Sequence[str]) -> list[str]:
        """Return each message's prompt as worded here; by the chat protocol the server words the turns."""
        return [self._prompt(message) for message in messages]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has.

        raises   Unsupported where the server's tokenizer is not known here
        """
        if self._prompting is None:
            raise Unsupported(
                "engine 'remote' does not know the server's tokenizer",
                hint="set DECODER_REMOTE_TOKENIZER to its folder or hub name",
            )
        return self._prompting.count(texts)

    def decode(
        self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted = always
    ) -> list[Program | RoomError | None]:
        """Ask for each row's program; a row that fails alone ends with its error."""

        asked = self._loop.run(self._asked(rows, decoding, wanted))
        return [self._program(reply) if isinstance(reply, Reply) else reply for reply in asked]

    def work(self, feed: Feed) -> None:
        """Decode one batch."""
        work_one_batch(self, feed)

    def memory(self) -> None:
        """There is no device here."""

    def close(self) -> None:
        """Let the connections go; requests already sent are not waited for."""
        self._loop.close()

    async def _asked(
        self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted
    ) -> list[Reply | RoomError | None]:
        free = asyncio.Semaphore(self._remote.connections)

        async def one(place: int) -> Reply | RoomError | None:
            async with free:
                return await self._reply(rows[place], decoding) if wanted(place) else None

        return await asyncio.gather(*(one(place) for place in range(len(rows))))

    async def _reply(self, row: Row, decoding: Decoding) -> Reply | RoomError:
        turns = conversation(row.message, self._examples)
        prompt, seed = self._prompt(row.message), _seed(row)
        try:
            async with within(self._remote, self._remote.timeout_s):
                try:
                    return await self._protocol.ask(turns, prompt, decoding, seed)
                except Unavailable:
                    # A server that closes an idle connection just now looks like one that is gone.
                    return await self._protocol.ask(turns, prompt, decoding, seed)
        except RoomError as error:
            return error

    def _prompt(self, message: str) -> str:
        if self._prompting is not None:
            return self._prompting.rendered(message)
        return plain_text(conversation(message, self._examples))

    def _program(self, reply: Reply) -> Program:
        tokens = reply.tokens
        if tokens is None:
            tokens = self._prompting.count([reply.text])[0] if self._prompting else 0
        reason = "stop" if reply.stopped else "length"
        return Program(text=program_of(reply.text), tokens=tokens, finish_reason=reason)


def load_remote(settings: DecoderSettings) -> RemoteEngine:
    """Connect to the server the settings name.

    raises   InvalidRequest when a setting is wrong, Unavailable when there is no server
    """
    remote = Remote(
        url=_url(settings.remote_url),
        token=_token(settings),
        timeout_s=settings.remote_timeout_s,
        connections=settings.remote_connections,
    )
    protocol: Tgi | Chat | Completions
    match settings.remote_api:
        case "tgi":
            protocol = Tgi(remote)
        case "chat":
            protocol = Chat(remote)
        case "completions":
            protocol = Completions(remote)
    loop = LoopThread(last=protocol.aclose)
    try:
        about = loop.run(protocol.about())
        protocol.model = settings.model or about.model
        return RemoteEngine(settings, remote, protocol, about, loop)
    except RoomError:
        loop.close()
        raise


def _seed(row: Row) -> int:
    """Return the row's own seed, from 1 to 2^31: TGI takes no 0."""
    digest = hashlib.sha256(f"{row.seed}\0{row.message}".encode("utf-8", "surrogatepass")).digest()
    return 1 + (int.from_bytes(digest[:4], "little") >> 1)


def _url(text: str | None) -> str:
    field = "DECODER_REMOTE_URL"
    if text is None:
        hint = "set it to the server, e.g. http://127.0.0.1:8080"
        raise InvalidRequest(f"{field} is unset, and DECODER_ENGINE=remote needs it", hint=hint, field=field)
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidRequest(
            f"{field}={text!r}: {error}", hint="use http://HOST:PORT", field=field
        ) from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.userinfo:
        hint = "use http://HOST:PORT without a query or a password (DECODER_REMOTE_TOKEN_FILE takes a token)"
        raise InvalidRequest(f"{field}: not the URL of a server", hint=hint, field=field)
    return str(url).rstrip("/").removesuffix("/v1")


def _token(settings: DecoderSettings) -> str | None:
    if settings.remote_token_file is None:
        if settings.remote_token is None:
            return None
        return _usable(
            "DECODER_REMOTE_TOKEN", settings.remote_token.get_secret_value(), "correct or unset it"
        )
    field = "DECODER_REMOTE_TOKEN_FILE"
    try:
        text = settings.remote_token_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        detail = f"{field}={str(settings.remote_token_file)!r}: cannot be read ({error})"
        raise InvalidRequest(detail, hint="create it, or unset it", field=field) from error
    return _usable(field, text, "write the token alone into it")


def _usable(field: str, text: str, hint: str) -> str:
    """Return a token without the blanks around it; what is none is not shown, it may be nearly one."""
    token = text.strip()
    if not token or not all("!" <= letter <= "~" for letter in token):
        raise InvalidRequest(
            f"{field}: it must hold one token of visible ASCII letters", hint=hint, field=field
        )
    return token
