"""The wire types of the latent routes: vectors in; programs, losses, gradients and states out.

Beside wire.py because they hold tensors, and tensors.py stands on wire.py. These are the only routes that
may read a conversation; in the blind layout they cannot: there is no field for one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt, ValidationInfo, field_validator

from shared.tensors import Tensor
from shared.wire import MAX_BATCH, Program, Real, Temperature, Text, Whole, Wire

MAX_LATENTS = 4096
MAX_TURNS = 1000


def _of_rank(rank: int, shape: str) -> AfterValidator:
    def check(tensor: Tensor) -> Tensor:
        if len(tensor.shape) != rank:
            raise ValueError(f"shape {tensor.shape}: it must be {shape}")
        if rank == 3 and (tensor.shape[0] > MAX_BATCH or tensor.shape[1] > MAX_LATENTS):
            raise ValueError(f"shape {tensor.shape}: N is at most {MAX_BATCH} and K at most {MAX_LATENTS}")
        return tensor

    return AfterValidator(check)


Latents = Annotated[Tensor, _of_rank(3, "[N, K, D]")]
Vector = Annotated[Tensor, _of_rank(1, "[D]")]

# plain: each turn's text and a newline, no roles, as seed latent packs; chat: the model's own template.
# blind: the decoder's own prompt with the latent message in the message's place, and nothing else.
Layout = Literal["plain", "chat", "blind"]


class Turn(Wire):
    """One turn. Only what an assistant says is supervised."""

    role: Literal["system", "user", "assistant"]
    content: Text


Conversation = Annotated[list[Turn], Field(min_length=1, max_length=MAX_TURNS)]
Conversations = Annotated[list[Conversation], Field(min_length=1, max_length=MAX_BATCH)]


class LatentLossRequest(Wire):
    """POST /v1/latents/loss. The block [bop, z_1..z_K, eop] stands right after the first user turn.

    latents        [N, K, D], after the student's head; null: no block, the conversation alone (a control)
    conversations  [N]; in the blind layout each is one assistant turn, the program to be decoded
    bop, eop       [D] learned marks around the block; unset: the model's own (see /v1/latents/embed)
    data_latents   [N, K, D], after the same head; null: no KL and no alignment term
    max_length     tokens of a conversation, the block counted; longer ones are cut at their end
    """

    latents: Latents | None = None
    conversations: Conversations
    layout: Layout = "plain"
    bop: Vector | None = None
    eop: Vector | None = None
    data_latents: Latents | None = None
    ce_weight: Real = Field(1.0, ge=0, le=1e6)
    kl_weight: Real = Field(1.0, ge=0, le=1e6)
    align_weight: Real = Field(1.0, ge=0, le=1e6)
    kl_temperature: Real = Field(4.0, gt=0, le=100)
    window: Whole = Field(
        64, ge=1, le=100_000, description="supervised tokens after the block in the KL term"
    )
    max_length: Whole | None = Field(None, ge=1, description="unset: what is too long is refused, not cut")
    gradient: bool = Field(True, strict=True, description="whether d(loss)/d(latents, bop, eop) is wanted")


class LossRow(Wire):
    """One conversation: its tokens with the block, those cut away, those supervised, their mean CE."""

    tokens: int
    cut: int
    supervised: int
    ce: float


class LatentLossReply(Wire):
    """loss = ce_weight * ce + kl_weight * kl + align_weight * align; gradients are of `loss`, float32.

    ce        mean cross-entropy over all supervised tokens of the batch, nats
    kl        the uncertainty-weighted KL from the model with the data latents; null without them
    align     1 - mean cosine of the mean-pooled latents; null without data latents
    weighted  tokens whose KL weight is above 0: those the data latents make more certain
    """

    loss: float
    ce: float
    kl: float | None = None
    align: float | None = None
    window_tokens: int
    weighted: int | None = None
    gradient: Latents | None = None
    bop_gradient: Vector | None = None
    eop_gradient: Vector | None = None
    rows: list[LossRow]


class LatentDecodeRequest(Wire):
    """POST /v1/latents/decode. Blind: from the latent message alone. Else `conversations` end with a user
    turn that the model answers; without latents that is the control."""

    latents: Latents | None = None
    layout: Layout = "blind"
    conversations: Conversations | None = Field(None, validate_default=True)
    bop: Vector | None = None
    eop: Vector | None = None
    max_new_tokens: Whole = Field(512, ge=1, le=8192)
    temperature: Temperature = Field(0.0, description="0 is greedy")
    top_p: Real = Field(1.0, gt=0.0, le=1.0)
    seed: Whole = Field(0, ge=0, lt=2**63)

    @field_validator("conversations")
    @classmethod
    def _blind_or_not(cls, given: list[Conversation] | None, info: ValidationInfo) -> object:
        layout = info.data.get("layout")
        if layout == "blind" and given is not None:
            raise ValueError("the blind layout reads the latent message alone; leave them out")
        if layout in ("plain", "chat") and given is None:
            raise ValueError(f"layout {layout!r} needs them")
        if layout == "blind" and "latents" in info.data and info.data["latents"] is None:
            raise ValueError("the blind layout needs latents; /v1/decode takes text")
        return given


class LatentDecodeReply(Wire):
    """programs [N], reduced to their code as /v1/decode does; texts [N], the replies as they are."""

    programs: list[Program]
    texts: list[str]
    model: str


class HiddenRequest(Wire):
    """POST /v1/latents/hidden. Last-layer states (after the final norm) of what the assistant says.

    conversations   [N]; with max_new_tokens = 0 each holds the plan as its assistant turns, otherwise it
                    ends with a user turn and the model writes the plan first
    at              predicting: the states that predict the plan's tokens, as a model collects them while
                    it writes; token: those at the tokens themselves; both [L, D] for L tokens
    """

    conversations: Conversations
    layout: Literal["plain", "chat"] = "plain"
    at: Literal["predicting", "token"] = "predicting"
    max_new_tokens: Whole = Field(0, ge=0, le=8192)
    temperature: Temperature = Field(0.0, description="0 is greedy")
    top_p: Real = Field(1.0, gt=0.0, le=1.0)
    seed: Whole = Field(0, ge=0, lt=2**63)
    max_length: Whole | None = Field(None, ge=1)
    dtype: Literal["float16", "bfloat16", "float32"] = "float32"


class HiddenReply(Wire):
    """hidden [N] of [L, D], L differing; texts [N]: the plans they are the states of."""

    hidden: list[Tensor]
    texts: list[str]


class EmbedRequest(Wire):
    """POST /v1/latents/embed: one of texts and token_ids."""

    texts: list[Text] | None = Field(None, min_length=1, max_length=MAX_BATCH)
    token_ids: list[list[StrictInt]] | None = Field(
        None, min_length=1, max_length=MAX_BATCH, validate_default=True
    )

    @field_validator("token_ids")
    @classmethod
    def _one_of_them(cls, given: list[list[int]] | None, info: ValidationInfo) -> object:
        if "texts" in info.data and (info.data["texts"] is None) == (given is None):
            raise ValueError("send exactly one of texts and token_ids")
        return given


class EmbedReply(Wire):
    """embeddings [N] of [T, D]; norm_mean, norm_std: L2 norms of the whole table's rows; rms: root mean
    square of its values; bop, eop [D]: the marks that stand in where a request brings none."""

    embeddings: list[Tensor]
    token_ids: list[list[int]]
    norm_mean: float
    norm_std: float
    rms: float
    bop: Vector
    eop: Vector
