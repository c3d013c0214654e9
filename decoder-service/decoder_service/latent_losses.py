"""The loss of a latent message, and its gradient: CE, uncertainty-weighted KL, alignment.

Pure torch, usable in process with any causal LM. The formulas are those of the latent seed, except where
it contradicts itself: the KL's window is aligned by supervised tokens, and entropies and divergences are
taken where a token is predicted, not one position later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from decoder_service.latents import Packed, Places, blocks_of, places_of, predictions, splice

_FLOOR = 1e-6
_QUANTILE = 0.95


class Terms(NamedTuple):
    """How the loss is put together: weights of its terms, the KL's temperature and window."""

    ce_weight: float = 1.0
    kl_weight: float = 1.0
    align_weight: float = 1.0
    kl_temperature: float = 4.0
    window: int = 64


class Message(NamedTuple):
    """The latent side of a batch: latents [N, K, D] and the marks [D]; data_latents as latents, or None."""

    latents: Tensor
    bop: Tensor
    eop: Tensor
    data_latents: Tensor | None = None


class Loss(NamedTuple):
    """Values in float; gradients in the type of the leaves; row_ce [N] mean CE per conversation."""

    loss: float
    ce: float
    kl: float | None
    align: float | None
    window_tokens: int
    weighted: int | None
    row_ce: list[float]
    row_supervised: list[int]
    gradient: Message | None


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each row, nats: [M, V] -> [M]; probabilities are floored at 1e-6."""
    shares = logits.softmax(dim=-1).clamp_min(_FLOOR)
    return -(shares * shares.log()).sum(dim=-1)


def uncertainty_weights(without: Tensor, with_data: Tensor) -> Tensor:
    """Weigh tokens by how much the data latents lower their entropy: [M], [M] -> [M].

    returns  relu(without - with_data), clipped at the 0.95 quantile of its positive values, over its mean
    """
    raw = (without - with_data).relu()
    if (positive := raw[raw > 0]).numel():
        raw = raw.clamp(max=positive.quantile(_QUANTILE).item())
    return raw / raw.mean().clamp_min(_FLOOR)


def divergences(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) per row: [M, V], [M, V] -> [M]."""
    target = (teacher / temperature).log_softmax(dim=-1)
    given = (student / temperature).log_softmax(dim=-1)
    return temperature**2 * (target.exp() * (target - given)).sum(dim=-1)


def misalignment(latents: Tensor, data_latents: Tensor) -> Tensor:
    """Return 1 - mean over the batch of cos(mean_k z, mean_k z_data): [N, K, D] twice -> scalar."""
    pooled, data = latents.mean(dim=1), data_latents.mean(dim=1)
    return 1 - functional.cosine_similarity(pooled, data, dim=-1).mean()


def latent_loss(
    model: Any,
    batch: Sequence[Packed],
    message: Message | None,
    terms: Terms,
    *,
    rows: int,
    gradient: bool = True,
    go_on: Callable[[], None] = lambda: None,
) -> Loss:
    """Compute the loss of a batch and d(loss)/d(latents, bop, eop); the model stays as it is.

    model     a causal LM in eval mode whose parameters need no gradient
    batch     [N] conversations, each with at least one supervised token
    message   None: no block (CE alone)
    rows      conversations per pass: changes memory, and the result only by rounding
    go_on     called before every pass; raise there to stop
    """
    leaves = None
    if message is not None:
        wants = [value.detach().clone().requires_grad_(gradient) for value in message[:3]]
        leaves = Message(wants[0], wants[1], wants[2], message.data_latents)
    parts = list(_parts(len(batch), rows))
    passes = _Passes(model, batch, leaves, terms.window)
    supervised = [sum(row.supervised[1:]) for row in batch]
    total = sum(supervised)
    guides = passes.guides(parts, go_on) if leaves and leaves.data_latents is not None else None
    ce, kl, row_ce, window_tokens = 0.0, 0.0, [0.0] * len(batch), 0
    for number, part in enumerate(parts):
        go_on()
        with torch.set_grad_enabled(gradient and leaves is not None):
            logits, places = passes.run(part, leaves.latents if leaves else None)
            window_tokens += int(places.in_window.sum())
            token_ce = functional.cross_entropy(logits, places.targets, reduction="none")
            loss = terms.ce_weight * token_ce.sum() / total
            ce += token_ce.detach().sum().item() / total
            if guides is not None:
                weights = guides.weights[number]
                apart = divergences(guides.logits[number], logits[places.in_window], terms.kl_temperature)
                term = (weights * apart).sum() / guides.total_weight
                loss = loss + terms.kl_weight * term
                kl += term.item()
            if loss.requires_grad:
                torch.autograd.backward(loss)
        for row, value in zip(places.rows.tolist(), token_ce.detach().tolist(), strict=True):
            row_ce[part.start + row] += value / supervised[part.start + row]
    align = None
    if leaves is not None and leaves.data_latents is not None:
        term = misalignment(leaves.latents, leaves.data_latents)
        if term.requires_grad:
            torch.autograd.backward(terms.align_weight * term)
        align = term.item()
    return Loss(
        loss=terms.ce_weight * ce
        + (terms.kl_weight * kl if guides else 0.0)
        + terms.align_weight * (align or 0.0),
        ce=ce,
        kl=kl if guides else None,
        align=align,
        window_tokens=window_tokens,
        weighted=sum(int((weights > 0).sum()) for weights in guides.weights) if guides else None,
        row_ce=row_ce,
        row_supervised=supervised,
        gradient=_gradients(leaves) if leaves is not None and gradient else None,
    )


class _Guides(NamedTuple):
    """Per part: the data path's logits in the window [m, V], and the weights of its tokens [m]."""

    logits: list[Tensor]
    weights: list[Tensor]
    total_weight: float


class _Passes:
    """Runs parts of a batch through the model, with a latent message or without."""

    def __init__(self, model: Any, batch: Sequence[Packed], leaves: Message | None, window: int) -> None:
        self._model, self._batch, self._leaves, self._window = model, batch, leaves, window
        self._embed = model.get_input_embeddings()

    def run(self, part: slice, latents: Tensor | None) -> tuple[Tensor, Places]:
        """Return the logits of the part's supervised tokens, in float32 at least, and where they stand."""
        device = self._model.device
        blocks = None
        if latents is not None and self._leaves is not None:
            blocks = blocks_of(latents[part], self._leaves.bop, self._leaves.eop)
            blocks = blocks.to(self._embed.weight.dtype)
        rows = self._batch[part]
        places = places_of(rows, 0 if blocks is None else blocks.shape[1], self._window, device)
        logits = predictions(self._model, splice(self._embed, rows, blocks, device=device), places)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), places

    @torch.no_grad()
    def guides(self, parts: Sequence[slice], go_on: Callable[[], None]) -> _Guides:
        """Run the batch without latents and with the data latents: the KL's targets and weights.

        The weights hang together over the whole batch, so both passes come before any loss.
        """
        assert self._leaves is not None
        logits, with_data, without = [], [], []
        for part in parts:
            go_on()
            given, places = self.run(part, self._leaves.data_latents)
            logits.append(given[places.in_window])
            with_data.append(entropies(logits[-1]))
            given, places = self.run(part, None)
            without.append(entropies(given[places.in_window]))
        weights = uncertainty_weights(torch.cat(without), torch.cat(with_data))
        split = list(torch.split(weights, [len(each) for each in with_data]))
        return _Guides(logits, split, weights.sum().item() + _FLOOR)


def _parts(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, count, rows):
        yield slice(start, min(count, start + rows))


def _gradients(leaves: Message) -> Message:
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves[:3]]
    return Message(grads[0], grads[1], grads[2])
