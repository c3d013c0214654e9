"""One frozen model with vectors in place of tokens: everything here belongs to the model's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from decoder_service.engines.arrays import from_wire
from decoder_service.engines.engine import Abandoned, Decoding, GoOn, Row
from decoder_service.engines.generation import Continuation, Prompts, continue_batch
from decoder_service.engines.memory import fits, too_small
from decoder_service.engines.prompting import Prompting
from decoder_service.engines.sampling import chooser
from decoder_service.latent_losses import Loss, Message, Terms, latent_loss
from decoder_service.latents import Packed, blocks_of, last_states, places_of, splice
from decoder_service.settings import DecoderSettings
from shared.tensors import Tensor as WireTensor

log = logging.getLogger(__name__)

R = TypeVar("R")

# Where a model has no tokens for the marks they are drawn once, from the embeddings' own distribution.
_MARKS_SEED = 20251209


class Table(NamedTuple):
    """What is told of the embedding table, and the marks that stand in; bop, eop [D] float32."""

    norm_mean: float
    norm_std: float
    rms: float
    bop: Tensor
    eop: Tensor


class LatentModel:
    """Runs packed conversations with latent messages through the model, in passes that fit its memory."""

    def __init__(
        self, model: Any, prompting: Prompting, stop_ids: Collection[int], settings: DecoderSettings
    ) -> None:
        self._model, self._prompting = model, prompting
        self._stop_ids, self._settings = stop_ids, settings
        weight = model.get_input_embeddings().weight
        self.vocabulary: int = weight.shape[0]
        self.width: int = weight.shape[1]

    @cached_property
    def table(self) -> Table:
        """Measure the embedding table, and find or draw the marks."""
        table = self._model.get_input_embeddings().weight.detach().float()
        norms = table.norm(dim=-1)
        chance = torch.Generator().manual_seed(_MARKS_SEED)
        spread, centre = table.std(dim=0).cpu(), table.mean(dim=0).cpu()
        marks = []
        for mark in ("<bop>", "<eop>"):
            drawn = centre + spread * torch.randn(self.width, generator=chance)
            token = self._prompting.token_id(mark)
            marks.append(drawn if token is None or token >= len(table) else table[token].cpu())
        return Table(norms.mean().item(), norms.std().item(), table.square().mean().sqrt().item(), *marks)

    def loss(
        self, batch: Sequence[Packed], message: Message | None, terms: Terms, gradient: bool, go_on: GoOn
    ) -> Loss:
        """Return the loss of a batch and its gradient; see latent_loss."""
        inserted = 0 if message is None else message.latents.shape[1] + 2

        def run(rows: int) -> Loss:
            return latent_loss(self._model, batch, message, terms, rows=rows, gradient=gradient, go_on=go_on)

        return self._in_parts(len(batch), self._rows(batch, inserted), run)

    def message(
        self,
        latents: WireTensor | None,
        bop: WireTensor | None,
        eop: WireTensor | None,
        data_latents: WireTensor | None = None,
    ) -> Message | None:
        """Return the wire's vectors on the model's device in float32; missing marks are the model's own."""
        if latents is None:
            return None
        device = self._model.device
        return Message(
            from_wire(latents).to(device),
            (self.table.bop if bop is None else from_wire(bop)).to(device),
            (self.table.eop if eop is None else from_wire(eop)).to(device),
            None if data_latents is None else from_wire(data_latents).to(device),
        )

    def embeddings(self, token_ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the embeddings of each row's tokens, [T, D]."""
        embed = self._model.get_input_embeddings()
        with torch.inference_mode():
            return [embed(torch.tensor(ids, device=self._model.device)) for ids in token_ids]

    def _rows(self, batch: Sequence[Packed], more: int) -> int:
        """Return how many conversations go through the model at a time."""
        longest = max(len(row.token_ids) for row in batch) + more
        fitting = self._settings.max_batch_tokens // longest
        return max(1, min(self._settings.max_batch, fitting, len(batch)))

    def _in_parts(self, count: int, rows: int, run: Callable[[int], R]) -> R:
        """Run with `rows` conversations a pass, and with half as many while the memory does not hold them."""
        while True:
            found = fits(lambda: run(rows), self._model.device)  # noqa: B023 - called at once
            if found is not None:
                return found
            if rows == 1:
                raise too_small("a single conversation")
            rows = -(-min(rows, count) // 2)
            log.warning("out of memory, fewer rows a pass", extra={"rows": rows})

    @torch.inference_mode()
    def continued(
        self,
        batch: Sequence[Packed],
        message: Message | None,
        rows: Sequence[Row],
        decoding: Decoding,
        go_on: GoOn,
    ) -> list[Continuation]:
        """Continue conversations, each after its latent message; a row's chance is that of `rows`."""
        model, embed = self._model, self._model.get_input_embeddings()
        blocks = None
        if message is not None:
            blocks = blocks_of(message.latents, message.bop, message.eop).to(embed.weight.dtype)
        inserted = 0 if blocks is None else blocks.shape[1]
        order = sorted(range(len(batch)), key=lambda row: len(batch[row].token_ids))

        def run(size: int) -> list[Continuation]:
            found: dict[int, Continuation] = {}
            for start in range(0, len(order), size):
                go_on()
                part = order[start : start + size]
                spliced = splice(
                    embed,
                    [batch[row] for row in part],
                    None if blocks is None else blocks[part],
                    device=model.device,
                    left=True,
                )
                said = continue_batch(
                    model,
                    Prompts({"inputs_embeds": spliced.embeddings}, spliced.mask, spliced.positions),
                    choose=chooser([rows[row] for row in part], decoding, model.device),
                    max_new_tokens=decoding.max_new_tokens,
                    stop_ids=self._stop_ids,
                    wanted=_while(go_on),
                )
                found |= dict(zip(part, said, strict=True))
            go_on()
            return [found[row] for row in range(len(batch))]

        return self._in_parts(len(batch), self._rows(batch, inserted + decoding.max_new_tokens), run)

    @torch.inference_mode()
    def states(
        self, batch: Sequence[Packed], at: Literal["predicting", "token"], go_on: GoOn
    ) -> list[Tensor]:
        """Return each conversation's states of its supervised tokens, [L, D]."""
        device, embed = self._model.device, self._model.get_input_embeddings()

        def run(size: int) -> list[Tensor]:
            found = []
            for start in range(0, len(batch), size):
                go_on()
                part = batch[start : start + size]
                states = last_states(self._model, splice(embed, part, None, device=device))
                places = places_of(part, 0, 1, device)
                chosen = states[places.rows, places.positions + (at == "token")]
                found += [chosen[places.rows == row].cpu() for row in range(len(part))]
            return found

        return self._in_parts(len(batch), self._rows(batch, 0), run)


def _while(go_on: GoOn) -> Callable[[int], bool]:
    """Want rows as long as `go_on` does not raise Abandoned."""

    def wanted(row: int) -> bool:
        try:
            go_on()
        except Abandoned:
            return False
        return True

    return wanted
