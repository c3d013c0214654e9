"""Engine `hf`: a frozen transformers model on this machine. Never trains, never downloads code.

The same message gives the same program whatever else is in the batch; on the CPU in float32 that is
tested. On a GPU in 16 bits another batch may round differently, which can flip a token whose two
best candidates are nearly equal; the cache in front keeps repeats of a message equal there too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from decoder_service.engines.continuous import Continuous, OwnFeed
from decoder_service.engines.engine import (
    Decoding,
    DeviceMemory,
    Feed,
    Row,
    Wanted,
    always,
    work_one_batch,
)
from decoder_service.engines.generation import Continuation, as_program, continue_batch, left_padded
from decoder_service.engines.hf_latents import HfLatents
from decoder_service.engines.latent_model import LatentModel
from decoder_service.engines.loading import load_model
from decoder_service.engines.memory import device_memory, fits, too_small
from decoder_service.engines.packing import Packing
from decoder_service.engines.prefix import read_prefix
from decoder_service.engines.prompting import Prompting
from decoder_service.engines.sampling import chooser
from decoder_service.engines.slots import can_hold
from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest
from shared.wire import ModelCard, Program

log = logging.getLogger(__name__)

# Messages that begin differently: what their prompts share is the same for every message.
_BEGINNINGS = ("0", "a", "Z", " x", "\n", "(", "é")


class HfEngine:
    """One model and its tokenizer. `decode` belongs to the thread that loaded it."""

    def __init__(
        self,
        model: Any,
        prompting: Prompting,
        card: ModelCard,
        context_tokens: int | None,
        settings: DecoderSettings,
    ) -> None:
        self._model, self._prompting, self._card = model, prompting, card
        self.context_tokens = context_tokens
        text_config = model.config.get_text_config()
        self._stop_ids = prompting.stop_ids(text_config.eos_token_id, model.generation_config.eos_token_id)
        packing = Packing(
            prompting,
            self._stop_ids,
            vocabulary=text_config.vocab_size,
            context_tokens=context_tokens,
        )
        layers = can_hold(model)
        self._running = (
            Continuous(
                model,
                layers,
                read_prefix(model, self.prepare(_BEGINNINGS)),
                pad_id=prompting.pad_id,
                stop_ids=self._stop_ids,
                as_programs=self.programs,
            )
            if layers
            else None
        )
        vectors = LatentModel(model, prompting, self._stop_ids, settings)
        self.latents = HfLatents(vectors, prompting, packing, card.name)

    def card(self) -> ModelCard:
        """Return what must be recorded to repeat a run."""
        return self._card

    def prepare(self, messages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each message's prompt in tokens.

        raises   InvalidRequest for a message with a token the model has no row for
        """
        prompts = self._prompting.token_ids(messages)
        vocabulary = self._model.config.get_text_config().vocab_size
        for message, prompt in zip(messages, prompts, strict=True):
            # On a GPU the look-up would take the whole device down.
            if max(prompt) >= vocabulary:
                raise InvalidRequest(
                    f"message {message[:80]!r}: token {max(prompt)} is beyond the model's {vocabulary}",
                    hint="the model was saved with a tokenizer that has more tokens than it",
                    field="messages",
                )
        return prompts

    def prompts(self, messages: Sequence[str]) -> list[str]:
        """Return each message's whole prompt as text; marks inside a message are read as ordinary text."""
        return [self._prompting.rendered(message) for message in messages]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, special tokens excluded."""
        return self._prompting.count(texts)

    def memory(self) -> DeviceMemory | None:
        """Return what the model's GPUs hold; None on a device that does not say."""
        return device_memory(self._model.device)

    def close(self) -> None:
        """The model goes with the process."""

    def work(self, feed: Feed) -> None:
        """Decode what the feed gives until it gives nothing, rows joining while others run.

        A model whose cache is not one of plain keys and values takes one batch at a time.
        """
        if self._running is not None:
            self._running.work(feed)
        else:
            work_one_batch(self, feed)

    def decode(
        self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted = always
    ) -> list[Program | None]:
        """Return each row's program, in order; halves the batch when the device's memory runs out."""
        if self._running is not None:
            own = OwnFeed(rows, decoding, wanted)
            self._running.work(own)
            return own.results()
        found = self._continue(rows, decoding, wanted)
        return [
            None if c.dropped else program for c, program in zip(found, self.programs(found), strict=True)
        ]

    def programs(self, continuations: Sequence[Continuation]) -> list[Program]:
        """Return what the generator said as programs."""
        texts = self._prompting.text([c.token_ids for c in continuations])
        return [as_program(text, c) for text, c in zip(texts, continuations, strict=True)]

    def _continue(self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted) -> list[Continuation]:
        model = self._model
        found = fits(
            lambda: continue_batch(
                model,
                left_padded([row.token_ids for row in rows], self._prompting.pad_id, model.device),
                choose=chooser(rows, decoding, model.device),
                max_new_tokens=decoding.max_new_tokens,
                stop_ids=self._stop_ids,
                wanted=wanted,
            ),
            model.device,
        )
        if found is not None:
            return found
        if len(rows) == 1:
            raise too_small(f"a single message of {len(rows[0].token_ids)} tokens", decoding)
        half = len(rows) // 2
        log.warning("out of memory, batch halved", extra={"rows": len(rows)})
        return [
            *self._continue(rows[:half], decoding, wanted),
            *self._continue(rows[half:], decoding, lambda row: wanted(half + row)),
        ]


def load_engine(settings: DecoderSettings) -> HfEngine:
    """Load the model the settings name. Must run in the thread that will call `decode`.

    raises   InvalidRequest when a setting is wrong, or the model it names cannot be loaded
    """
    torch.set_num_threads(settings.threads)
    return HfEngine(*load_model(settings), settings)
