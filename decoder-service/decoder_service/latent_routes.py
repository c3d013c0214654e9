"""The routes that take and give vectors. Only these may read a conversation; the blind layout has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from decoder_service.batching import Batcher
from decoder_service.engines.engine import LatentEngine, R, Work
from shared.errors import Unsupported
from shared.service import cancelled_by_disconnect
from shared.wire import Wire
from shared.wire_latents import (
    EmbedReply,
    EmbedRequest,
    HiddenReply,
    HiddenRequest,
    LatentDecodeReply,
    LatentDecodeRequest,
    LatentLossReply,
    LatentLossRequest,
)


def add_latent_routes(app: FastAPI) -> None:
    """Add /v1/latents/*. On an engine that cannot do that they answer 501."""

    @app.post("/v1/latents/loss", response_model=LatentLossReply, tags=["latents"])
    async def loss(body: LatentLossRequest, request: Request) -> Response:
        """Score latent messages: the loss terms, and d(loss)/d(latents, bop, eop)."""
        return await _answer(app, request, lambda engine: engine.loss(body))

    @app.post("/v1/latents/decode", response_model=LatentDecodeReply, tags=["latents"])
    async def decode(body: LatentDecodeRequest, request: Request) -> Response:
        """Turn latent messages into programs: from the message alone (blind), or after a conversation."""
        return await _answer(app, request, lambda engine: engine.decode(body))

    @app.post("/v1/latents/hidden", response_model=HiddenReply, tags=["latents"])
    async def hidden(body: HiddenRequest, request: Request) -> Response:
        """Collect the last layer's states of what an assistant says, or would say."""
        return await _answer(app, request, lambda engine: engine.hidden(body))

    @app.post("/v1/latents/embed", response_model=EmbedReply, tags=["latents"])
    async def embed(body: EmbedRequest, request: Request) -> Response:
        """Look up embeddings, and the size vectors must have to look like them."""
        return await _answer(app, request, lambda engine: engine.embed(body))


async def _answer(app: FastAPI, request: Request, prepare: Callable[[LatentEngine], Work[R]]) -> Response:
    batcher: Batcher = app.state.batcher
    engine = batcher.engine.latents
    if engine is None:
        raise Unsupported(
            f"engine {batcher.engine.card().engine!r} takes text only: it cannot reach a model's vectors",
            hint="run the decoder with DECODER_ENGINE=hf",
        )
    # Tokenizing and unpacking take longer than the event loop should be held.
    work = await asyncio.to_thread(prepare, engine)
    reply = await cancelled_by_disconnect(request, batcher.alone(work))
    assert isinstance(reply, Wire)
    return Response(await asyncio.to_thread(reply.model_dump_json), media_type="application/json")
