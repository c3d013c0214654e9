"""The frozen teacher as the trainer sees it: behind HTTP, or in this process. Both give the same numbers.

Its weights are never part of the student: in this process as well it is asked by the wire's types only.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from typing import Any, Protocol

from shared.clients import DecoderClient, run
from shared.tensors import Tensor as WireTensor
from shared.wire import ModelCard, Program
from shared.wire_latents import (
    EmbedReply,
    EmbedRequest,
    HiddenRequest,
    LatentDecodeRequest,
    LatentLossReply,
    LatentLossRequest,
    Turn,
)
from trainer.bearer import read_token
from trainer.channels.latent.vectors import from_wire, to_wire
from trainer.config import ConfigError
from trainer.config_latent import LatentConfig, Service

# By name, as the services are started: nothing of the other room is imported where it is not asked for.
_ENGINE, _SETTINGS = "decoder_service.engines.hf:load_engine", "decoder_service.settings:DecoderSettings"

Conversations = Sequence[Sequence[Turn]]


class Teacher(Protocol):
    """What gives losses, programs, states and embeddings. Raises NoAnswer, or RequestRefused."""

    def card(self) -> ModelCard:
        """Return what the teacher is."""

    def loss(
        self, latents: WireTensor | None, conversations: Conversations, **options: Any
    ) -> LatentLossReply:
        """Return the loss of latents [N, K, D] and its gradient; options as in LatentLossRequest."""

    def decode(
        self, latents: WireTensor | None, conversations: Conversations | None = None, **options: Any
    ) -> list[Program]:
        """Return programs [N] for latents [N, K, D]; options as in LatentDecodeRequest."""

    def hidden(self, conversations: Conversations, **options: Any) -> list[tuple[WireTensor, str]]:
        """Return states [L, D] and texts, [N]; options as in HiddenRequest."""

    def embed(self, texts: Sequence[str]) -> EmbedReply:
        """Return the embeddings of texts, and the table's statistics."""

    def decode_text(self, messages: Sequence[str], max_new_tokens: int) -> list[Program]:
        """Return programs [N] for text messages [N]."""


class RemoteTeacher:
    """A decoder service, or several of the same model."""

    def __init__(self, config: Service) -> None:
        if not config.decoder_url:
            raise ConfigError("decoder_url is needed here; start one with `psuedoptimal serve decoder`")
        self.client = DecoderClient(
            config.decoder_url, token=read_token(config.decoder_token_file), deadline_s=config.deadline_s
        )

    def card(self) -> ModelCard:
        """Wait until it is ready, and return what it is."""

        async def ask() -> ModelCard:
            await self.client.wait_ready(60.0)
            return await self.client.model()

        return run(ask())

    def loss(
        self, latents: WireTensor | None, conversations: Conversations, **options: Any
    ) -> LatentLossReply:
        """See Teacher."""
        return run(self.client.latent_loss(latents, conversations, **options))

    def decode(
        self, latents: WireTensor | None, conversations: Conversations | None = None, **options: Any
    ) -> list[Program]:
        """See Teacher."""
        return run(self.client.latent_decode(latents, conversations=conversations, **options))

    def hidden(self, conversations: Conversations, **options: Any) -> list[tuple[WireTensor, str]]:
        """See Teacher."""
        return run(self.client.hidden(conversations, **options))

    def embed(self, texts: Sequence[str]) -> EmbedReply:
        """See Teacher."""
        return run(self.client.embed(texts))

    def decode_text(self, messages: Sequence[str], max_new_tokens: int) -> list[Program]:
        """See Teacher."""
        return run(self.client.decode(messages, max_new_tokens=max_new_tokens))


class LocalTeacher:
    """The decoder's own engine in this process, on this process's device: for one GPU, or without a network.

    raises  ConfigError if the decoder is not installed here; RequestRefused if the model cannot be loaded
    """

    def __init__(self, config: LatentConfig) -> None:
        try:
            load, settings = pkgutil.resolve_name(_ENGINE), pkgutil.resolve_name(_SETTINGS)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"teacher_in_process: the decoder is not installed here ({error}); "
                "`pip install 'psuedoptimal[decoder]'`, or leave it out"
            ) from error
        threads = config.threads or 1
        self.engine: Any = load(settings(model=config.teacher_source, device=config.device, threads=threads))

    def card(self) -> ModelCard:
        """Return what it is."""
        found: ModelCard = self.engine.card()
        return found

    def loss(
        self, latents: WireTensor | None, conversations: Conversations, **options: Any
    ) -> LatentLossReply:
        """See Teacher."""
        turns = [list(each) for each in conversations]
        body = LatentLossRequest(latents=latents, conversations=turns, **options)
        found: LatentLossReply = self.engine.latents.loss(body).run(_go_on)
        return found

    def decode(
        self, latents: WireTensor | None, conversations: Conversations | None = None, **options: Any
    ) -> list[Program]:
        """See Teacher."""
        turns = None if conversations is None else [list(each) for each in conversations]
        body = LatentDecodeRequest(latents=latents, conversations=turns, **options)
        found: list[Program] = self.engine.latents.decode(body).run(_go_on).programs
        return found

    def hidden(self, conversations: Conversations, **options: Any) -> list[tuple[WireTensor, str]]:
        """See Teacher."""
        body = HiddenRequest(conversations=[list(each) for each in conversations], **options)
        reply = self.engine.latents.hidden(body).run(_go_on)
        return list(zip(reply.hidden, reply.texts, strict=True))

    def embed(self, texts: Sequence[str]) -> EmbedReply:
        """See Teacher."""
        found: EmbedReply = self.engine.latents.embed(EmbedRequest(texts=list(texts))).run(_go_on)
        return found

    def decode_text(self, messages: Sequence[str], max_new_tokens: int) -> list[Program]:
        """See Teacher."""
        row, decoding = (
            pkgutil.resolve_name(f"decoder_service.engines.engine:{name}") for name in ("Row", "Decoding")
        )
        rows = [row(str(n), prompt, 0) for n, prompt in enumerate(self.engine.prepare(list(messages)))]
        found = self.engine.decode(rows, decoding(max_new_tokens, 0.0, 1.0))
        if failed := [each for each in found if not isinstance(each, Program)]:
            raise failed[0]
        return list(found)


def read_marks(config: LatentConfig, teacher: Teacher) -> EmbedReply:
    """Return what a new student must know of its teacher: the embeddings' size, and what marks begin as.

    A frozen teacher that has never met its marks takes drawn ones for words. Where `marks_text` names words
    that say nothing to it, both marks begin as their mean embedding.
    """
    reply = teacher.embed([config.marks_text or "x"])
    if config.marks_text is None:
        return reply
    mark = to_wire(from_wire(reply.embeddings[0]).mean(dim=0))
    return reply.model_copy(update={"bop": mark, "eop": mark})


def _go_on() -> None:
    """Nobody else waits for the model."""


def open_teacher(config: LatentConfig) -> Teacher:
    """Return the teacher of a run, checked to be the model the settings name."""
    return LocalTeacher(config) if config.teacher_in_process else RemoteTeacher(config)
