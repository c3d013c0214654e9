"""The latent routes' requests on engine `hf`: checked from any thread, worked on in the model's.

The model is never trained here: what a request learns from is the gradient it is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from decoder_service.engines.arrays import finite_tensor, to_wire
from decoder_service.engines.engine import Decoding, GoOn, Row, Work
from decoder_service.engines.generation import as_program
from decoder_service.engines.latent_model import LatentModel
from decoder_service.engines.packing import Packing, check_supervised
from decoder_service.engines.prompting import Prompting
from decoder_service.latent_losses import Loss, Terms
from decoder_service.latents import Packed
from shared.errors import InvalidRequest
from shared.tensors import MAX_BYTES, WIDTHS, DType, Tensor
from shared.wire_latents import (
    EmbedReply,
    EmbedRequest,
    HiddenReply,
    HiddenRequest,
    LatentDecodeReply,
    LatentDecodeRequest,
    LatentLossReply,
    LatentLossRequest,
    LossRow,
)


class HfLatents:
    """The latent side of one model."""

    def __init__(self, model: LatentModel, prompting: Prompting, packing: Packing, name: str) -> None:
        self._model, self._prompting, self._packing, self._name = model, prompting, packing, name

    def loss(self, request: LatentLossRequest) -> Work[LatentLossReply]:
        """Check a loss request; its work returns the terms and the gradient."""
        inserted = self._inserted(request.latents, len(request.conversations))
        self._check_marks(request)
        _check_same_shape(request)
        packed = self._packing.told(request.conversations, request.layout)
        batch = self._packing.fitted(packed, inserted=inserted, max_length=request.max_length)
        check_supervised(batch)
        terms = Terms(
            request.ce_weight, request.kl_weight, request.align_weight, request.kl_temperature, request.window
        )

        def run(go_on: GoOn) -> LatentLossReply:
            message = self._model.message(request.latents, request.bop, request.eop, request.data_latents)
            found = self._model.loss(batch, message, terms, request.gradient, go_on)
            return _loss_reply(found, batch, inserted)

        passes = 1 if request.data_latents is None else 3
        return Work(passes * sum(len(row.token_ids) + inserted for row in batch), run)

    def decode(self, request: LatentDecodeRequest) -> Work[LatentDecodeReply]:
        """Check a decode request; its work returns the programs."""
        if request.conversations is not None:
            packed = self._packing.asked(request.conversations, request.layout)
        else:
            assert request.latents is not None, "the wire type sees to it"
            packed = [self._packing.blind()] * request.latents.shape[0]
        inserted = self._inserted(request.latents, len(packed))
        self._check_marks(request)
        decoding = Decoding(request.max_new_tokens, request.temperature, request.top_p)
        batch = self._packing.fitted(packed, inserted=inserted, new_tokens=decoding.max_new_tokens)
        rows = _rows(batch, request.latents, request.seed)

        def run(go_on: GoOn) -> LatentDecodeReply:
            message = self._model.message(request.latents, request.bop, request.eop)
            said = self._model.continued(batch, message, rows, decoding, go_on)
            texts = self._prompting.text([each.token_ids for each in said])
            programs = [as_program(text, each) for text, each in zip(texts, said, strict=True)]
            return LatentDecodeReply(programs=programs, texts=texts, model=self._name)

        return Work(sum(len(row.token_ids) + inserted + decoding.max_new_tokens for row in batch), run)

    def hidden(self, request: HiddenRequest) -> Work[HiddenReply]:
        """Check a request for states; its work returns them, and writes the plans first if asked to."""
        new = request.max_new_tokens
        if new and request.max_length is not None:
            detail = f"max_length={request.max_length}: a prompt that the model continues is never cut"
            raise InvalidRequest(detail, hint="leave it out, or set max_new_tokens=0", field="max_length")
        if new:
            packed = self._packing.asked(request.conversations, request.layout)
        else:
            packed = self._packing.told(request.conversations, request.layout, ends=False)
        batch = self._packing.fitted(packed, inserted=0, new_tokens=new, max_length=request.max_length)
        if not new:
            check_supervised(batch)
        self._check_size(sum(new or sum(row.supervised) for row in batch), request.dtype, "conversations")
        decoding = Decoding(new, request.temperature, request.top_p)

        def run(go_on: GoOn) -> HiddenReply:
            whole = batch
            if new:
                said = self._model.continued(batch, None, _rows(batch, None, request.seed), decoding, go_on)
                pairs = enumerate(zip(batch, said, strict=True))
                whole = [_with_plan(row, each.token_ids, number) for number, (row, each) in pairs]
            states = self._model.states(whole, request.at, go_on)
            plans = [
                [token for at, token in enumerate(row.token_ids) if at and row.supervised[at]]
                for row in whole
            ]
            return HiddenReply(
                hidden=[to_wire(each, request.dtype, "conversations") for each in states],
                texts=self._prompting.text(plans),
            )

        return Work(sum(len(row.token_ids) + 2 * new for row in batch), run)

    def embed(self, request: EmbedRequest) -> Work[EmbedReply]:
        """Check a request for embeddings; its work looks them up."""
        field, token_ids = "token_ids", request.token_ids or []
        if request.texts is not None:
            field, token_ids = "texts", self._prompting.plain(request.texts)
        most = self._model.vocabulary - 1
        for number, ids in enumerate(token_ids):
            if not ids or min(ids) < 0 or max(ids) > most:
                where = f"{field}[{number}]"
                detail = f"{where}: it must have at least one token, each from 0 to {most}"
                hint = "leave out empty rows, and tokens beyond the vocabulary"
                raise InvalidRequest(detail, hint=hint, field=where)
        tokens = sum(map(len, token_ids))
        self._check_size(tokens, "float32", field)

        def run(go_on: GoOn) -> EmbedReply:
            table = self._model.table
            return EmbedReply(
                embeddings=[to_wire(each, "float32", field) for each in self._model.embeddings(token_ids)],
                token_ids=token_ids,
                norm_mean=table.norm_mean,
                norm_std=table.norm_std,
                rms=table.rms,
                bop=to_wire(table.bop, "float32", "bop"),
                eop=to_wire(table.eop, "float32", "eop"),
            )

        return Work(tokens, run)

    def _inserted(self, latents: Tensor | None, count: int) -> int:
        """Return the block's length, after checking the message's width and number."""
        if latents is None:
            return 0
        rows, vectors, width = latents.shape
        if width != self._model.width:
            raise InvalidRequest(
                f"latents: width {width} is not the model's width {self._model.width}",
                hint="project the student's vectors to the model's width (GET /v1/model)",
                field="latents",
            )
        if rows != count:
            detail = f"latents: {rows} messages for {count} conversations"
            raise InvalidRequest(detail, hint="send one for each", field="latents")
        return vectors + 2

    def _check_marks(self, request: LatentLossRequest | LatentDecodeRequest) -> None:
        for field, mark in (("bop", request.bop), ("eop", request.eop)):
            if mark is not None and mark.shape != [self._model.width]:
                detail = f"{field}: width {mark.shape[0]} is not the model's width {self._model.width}"
                raise InvalidRequest(detail, hint="send one vector of the model's width", field=field)

    def _check_size(self, vectors: int, dtype: DType, field: str) -> None:
        size = vectors * self._model.width * WIDTHS[dtype]
        if size > MAX_BYTES:
            detail = f"{field}: the answer may have {size} bytes, at most {MAX_BYTES} are sent at a time"
            raise InvalidRequest(detail, hint="send fewer per request", field=field)


def _check_same_shape(request: LatentLossRequest) -> None:
    data, latents = request.data_latents, request.latents
    if data is not None and (latents is None or data.shape != latents.shape):
        raise InvalidRequest(
            f"data_latents: shape {data.shape} is not that of latents, {latents.shape if latents else None}",
            hint="take as many of the stored vectors as there are latents",
            field="data_latents",
        )


def _rows(batch: Sequence[Packed], latents: Tensor | None, seed: int) -> list[Row]:
    """Give each row a chance of its own, from its message, its conversation and the seed."""
    raw = latents.to_bytes() if latents is not None else b""
    size = len(raw) // len(batch)
    names = [
        hashlib.sha256(raw[n * size : (n + 1) * size] + str(row.token_ids).encode()).hexdigest()
        for n, row in enumerate(batch)
    ]
    return [Row(name, row.token_ids, seed) for name, row in zip(names, batch, strict=True)]


def _with_plan(row: Packed, plan: Sequence[int], number: int) -> Packed:
    if not plan:
        field = f"conversations[{number}]"
        detail = f"{field}: the model ended at once, there is no plan to take states of"
        raise InvalidRequest(detail, hint="word it differently, or sample with another seed", field=field)
    return Packed((*row.token_ids, *plan), (*row.supervised, *(True for _ in plan)), row.at)


def _loss_reply(found: Loss, batch: Sequence[Packed], inserted: int) -> LatentLossReply:
    finite_tensor(torch.tensor(found.loss), "latents")
    gradient = found.gradient
    return LatentLossReply(
        loss=found.loss,
        ce=found.ce,
        kl=found.kl,
        align=found.align,
        window_tokens=found.window_tokens,
        weighted=found.weighted,
        gradient=to_wire(gradient.latents, "float32", "latents") if gradient else None,
        bop_gradient=to_wire(gradient.bop, "float32", "bop") if gradient else None,
        eop_gradient=to_wire(gradient.eop, "float32", "eop") if gradient else None,
        rows=[
            LossRow(tokens=len(row.token_ids) + inserted, cut=row.cut, supervised=supervised, ce=ce)
            for row, supervised, ce in zip(batch, found.row_supervised, found.row_ce, strict=True)
        ],
    )
