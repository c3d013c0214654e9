"""The splice and the loss of latent messages, against a plain reference in float64 and by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from decoder_service.latent_losses import (
    Message,
    Terms,
    divergences,
    entropies,
    latent_loss,
    misalignment,
    uncertainty_weights,
)
from decoder_service.latents import IGNORED, Packed, blocks_of, places_of, shortened, splice

CPU = torch.device("cpu")


def conversation(*turns: tuple[str, int], start: int = 10) -> Packed:
    """Tokens start, start + 1, ... in turns of ("user" | "assistant", length)."""
    ids: list[int] = []
    supervised: list[bool] = []
    at = 0
    for role, length in turns:
        ids += range(start + len(ids), start + len(ids) + length)
        supervised += [role == "assistant"] * length
        if role == "user" and not at:
            at = len(ids)
    return Packed(tuple(ids), tuple(supervised), at)


RAGGED = [
    conversation(("user", 5), ("assistant", 7)),
    conversation(("user", 1), ("assistant", 3), ("user", 4), ("assistant", 20), start=60),
    conversation(("user", 17), ("assistant", 1), ("user", 2), ("assistant", 2), ("user", 1), start=200),
    conversation(("assistant", 2), ("user", 3), ("assistant", 9), start=30),
]


class ExactNorm(torch.nn.Module):
    """RMSNorm in the input's own precision; transformers' goes through float32 whatever the model's is."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states / (states.square().mean(-1, keepdim=True) + self.eps).sqrt()


@pytest.fixture(scope="module")
def exact(any_model: Path) -> Any:
    """The model in float64 throughout: sdpa, since eager attention's softmax is float32's as well."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        any_model, dtype=torch.float64, attn_implementation="sdpa"
    )
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            model.set_submodule(name, ExactNorm(module))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def single(any_model: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(any_model, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def random_message(rows: int, vectors: int, width: int, *, data: bool = True, seed: int = 0) -> Message:
    """Vectors about as large as this model's embeddings (0.2), in float32 values held as float64."""
    chance = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (0.2 * torch.randn(*shape, generator=chance)).double()

    return Message(
        draw(rows, vectors, width), draw(width), draw(width), draw(rows, vectors, width) if data else None
    )


# --- the reference: one row at a time, no padding, no parts, everything by autograd --------------------


class Reference(NamedTuple):
    loss: Tensor
    ce: Tensor
    kl: Tensor
    align: Tensor


def reference_logits(model: Any, row: Packed, block: Tensor | None) -> tuple[Tensor, Tensor, list[bool]]:
    """Logits [m, V] that predict the supervised tokens, those tokens, and whether each is after the block."""
    embeddings = model.get_input_embeddings()(torch.tensor([row.token_ids]))[0]
    labels = [t if s else IGNORED for t, s in zip(row.token_ids, row.supervised, strict=True)]
    after = [place >= row.at for place in range(len(labels))]
    if block is not None:
        embeddings = torch.cat([embeddings[: row.at], block, embeddings[row.at :]])
        labels[row.at : row.at] = [IGNORED] * len(block)
        after[row.at : row.at] = [False] * len(block)
    logits = model(inputs_embeds=embeddings[None]).logits[0]
    wanted = [place for place in range(1, len(labels)) if labels[place] != IGNORED]
    return (
        logits[[place - 1 for place in wanted]],
        torch.tensor([labels[place] for place in wanted]),
        [after[place] for place in wanted],
    )


def reference_loss(model: Any, batch: Sequence[Packed], message: Message, terms: Terms) -> Reference:
    """The formulas as they are written down, in the model's own precision."""
    assert message.data_latents is not None
    ce, student, data, none = [], [], [], []
    for number, row in enumerate(batch):
        block = torch.cat([message.bop[None], message.latents[number], message.eop[None]])
        other = torch.cat([message.bop[None], message.data_latents[number], message.eop[None]])
        a, targets, after = reference_logits(model, row, block)
        ce.append(torch.nn.functional.cross_entropy(a, targets, reduction="sum"))
        window = [place for place, is_after in enumerate(after) if is_after][: terms.window]
        student.append(a[window])
        with torch.no_grad():
            data.append(reference_logits(model, row, other)[0][window])
            none.append(reference_logits(model, row, None)[0][window])
    mean_ce = torch.stack(ce).sum() / sum(sum(row.supervised[1:]) for row in batch)

    def entropy(logits: Tensor) -> Tensor:
        p = torch.softmax(logits, -1).clamp(min=1e-6)
        return -(p * torch.log(p)).sum(-1)

    weights = torch.relu(entropy(torch.cat(none)) - entropy(torch.cat(data))).detach()
    if (weights > 0).any():
        weights = torch.minimum(weights, torch.quantile(weights[weights > 0], 0.95))
    weights = weights / weights.mean().clamp(min=1e-6)
    heat = terms.kl_temperature
    p = torch.softmax(torch.cat(data).detach() / heat, -1)
    q = torch.softmax(torch.cat(student) / heat, -1)
    kl = heat**2 * (weights * (p * (p / q).log()).sum(-1)).sum() / (weights.sum() + 1e-6)
    mean, data_mean = message.latents.mean(1), message.data_latents.mean(1)
    cosines = (mean * data_mean).sum(-1) / (mean.norm(dim=-1) * data_mean.norm(dim=-1))
    align = 1 - cosines.mean()
    total = terms.ce_weight * mean_ce + terms.kl_weight * kl + terms.align_weight * align
    return Reference(total, mean_ce, kl, align)


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def in_float32(message: Message) -> Message:
    data = message.data_latents
    return Message(
        message.latents.float(),
        message.bop.float(),
        message.eop.float(),
        None if data is None else data.float(),
    )


# --- the loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [1, 8, 128])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_loss_and_gradient_are_those_of_the_float64_reference(
    exact: Any, single: Any, vectors: int, rows: int
) -> None:
    message = random_message(len(RAGGED), vectors, 64)
    terms = Terms(ce_weight=1.0, kl_weight=0.7, align_weight=0.3, window=6)
    leaves = [value.clone().requires_grad_() for value in message[:3]]
    wanted = reference_loss(exact, RAGGED, Message(*leaves, message.data_latents), terms)  # type: ignore[arg-type]
    torch.autograd.backward(wanted.loss)
    found = latent_loss(single, RAGGED, in_float32(message), terms, rows=rows)
    assert found.loss == pytest.approx(wanted.loss.item(), rel=1e-5)
    assert found.ce == pytest.approx(wanted.ce.item(), rel=1e-5)
    assert found.kl == pytest.approx(wanted.kl.item(), rel=1e-5)
    assert found.align == pytest.approx(wanted.align.item(), rel=1e-5)
    assert found.gradient is not None and wanted.kl.item() > 1e-3
    for name, ours, leaf in zip(Message._fields, found.gradient, leaves, strict=False):
        assert leaf.grad is not None
        assert relative(ours, leaf.grad) < 1e-5, name


def test_each_terms_gradient_alone_is_the_references(exact: Any, single: Any) -> None:
    message = random_message(len(RAGGED), 5, 64, seed=1)
    for terms in (Terms(1, 0, 0), Terms(0, 1, 0, window=4), Terms(0, 0, 1)):
        latents = message.latents.clone().requires_grad_()
        wanted = reference_loss(exact, RAGGED, message._replace(latents=latents), terms)
        torch.autograd.backward(wanted.loss)
        found = latent_loss(single, RAGGED, in_float32(message), terms, rows=2)
        assert found.gradient is not None and latents.grad is not None
        assert relative(found.gradient.latents, latents.grad) < 1e-5


def test_the_gradient_is_the_slope_of_the_loss(exact: Any) -> None:
    """Finite differences, written out: (L(z + h e) - L(z - h e)) / 2h for single entries, in float64.

    The marks stand in the data path too, which is a fixed target: only without the KL is the gradient
    with respect to them the slope of the whole.
    """
    message = random_message(2, 3, 64, seed=2)
    batch, step = RAGGED[1:3], 1e-6
    chance = torch.Generator().manual_seed(3)
    for field, kl_weight in (("latents", 1.0), ("bop", 0.0), ("eop", 0.0)):
        terms = Terms(kl_weight=kl_weight, window=5)
        found = latent_loss(exact, batch, message, terms, rows=2)
        assert found.gradient is not None
        values, gradient = getattr(message, field), getattr(found.gradient, field)
        for flat in torch.randint(values.numel(), (6,), generator=chance).tolist():
            ends = []
            for sign in (1, -1):
                moved = values.clone()
                moved.view(-1)[flat] += sign * step
                shifted = message._replace(**{field: moved})
                ends.append(latent_loss(exact, batch, shifted, terms, rows=2, gradient=False).loss)
            slope = (ends[0] - ends[1]) / (2 * step)
            assert slope == pytest.approx(gradient.reshape(-1)[flat].item(), rel=1e-5, abs=1e-8)


def test_the_result_does_not_depend_on_rows_a_pass_nor_on_the_order(single: Any) -> None:
    message = in_float32(random_message(4, 8, 64))
    whole = latent_loss(single, RAGGED, message, Terms(), rows=4)
    order = [2, 0, 3, 1]
    assert message.data_latents is not None
    turned = message._replace(latents=message.latents[order], data_latents=message.data_latents[order])
    other = latent_loss(single, [RAGGED[n] for n in order], turned, Terms(), rows=1)
    assert other.loss == pytest.approx(whole.loss, rel=1e-5)
    assert [other.row_ce[order.index(n)] for n in range(4)] == pytest.approx(whole.row_ce, rel=1e-5)
    assert whole.gradient is not None and other.gradient is not None
    assert relative(other.gradient.latents, whole.gradient.latents[order].double()) < 1e-5


def test_the_model_is_left_as_it_was(single: Any) -> None:
    before = copy.deepcopy(single.state_dict())
    latent_loss(single, RAGGED, in_float32(random_message(4, 2, 64)), Terms(), rows=4)
    assert all(torch.equal(value, before[name]) for name, value in single.state_dict().items())
    assert all(parameter.grad is None for parameter in single.parameters())
    assert not single.training


def test_without_a_message_the_loss_is_transformers_own(single: Any) -> None:
    found = latent_loss(single, RAGGED[:1], None, Terms(), rows=1)
    ids = torch.tensor([RAGGED[0].token_ids])
    labels = torch.where(torch.tensor([RAGGED[0].supervised]), ids, IGNORED)
    assert found.loss == pytest.approx(single(input_ids=ids, labels=labels).loss.item(), rel=1e-6)
    assert found.kl is None and found.align is None and found.gradient is None


def test_with_a_message_ce_is_transformers_own_over_the_spliced_batch(single: Any) -> None:
    message = in_float32(random_message(4, 3, 64, data=False))
    found = latent_loss(single, RAGGED, message, Terms(), rows=4)
    blocks = blocks_of(*message[:3])
    whole = splice(single.get_input_embeddings(), RAGGED, blocks, device=CPU)
    out = single(inputs_embeds=whole.embeddings, attention_mask=whole.mask, labels=whole.labels)
    assert found.loss == pytest.approx(out.loss.item(), rel=1e-5)


def test_tokens_the_data_latents_make_no_surer_weigh_nothing() -> None:
    weights = uncertainty_weights(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]))
    assert weights.tolist() == [0.0, 0.0]


# --- the terms by hand --------------------------------------------------------------------------------


def test_entropies_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3.0), -1e9, -1e9]])
    found = entropies(logits).tolist()
    floor = -2 * 1e-6 * math.log(1e-6)
    assert found[0] == pytest.approx(math.log(4))
    assert found[1] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75) + floor, rel=1e-5)


def test_weights_by_hand() -> None:
    without = torch.tensor([2.0, 3.0, 1.0, 5.0])
    with_data = torch.tensor([1.0, 1.0, 4.0, 1.0])
    # raw 1, 2, 0, 4; the 0.95 quantile of (1, 2, 4) is 2 + 0.9 * 2 = 3.8; their mean is 6.8 / 4 = 1.7.
    found = uncertainty_weights(without, with_data).tolist()
    assert found == pytest.approx([1 / 1.7, 2 / 1.7, 0.0, 3.8 / 1.7])


def test_divergence_by_hand() -> None:
    teacher = torch.tensor([[4.0 * math.log(3.0), 0.0]])
    student = torch.tensor([[0.0, 0.0]])
    # At T = 4: (3/4, 1/4) against (1/2, 1/2).
    wanted = 16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert divergences(teacher, student, 4.0).tolist() == pytest.approx([wanted], rel=1e-5)


def test_misalignment_by_hand() -> None:
    latents = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
    data = torch.tensor([[[5.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]]])
    assert misalignment(latents, data).item() == pytest.approx(1 - (1 + 0) / 2)


# --- the splice ---------------------------------------------------------------------------------------


def test_the_block_stands_right_after_the_first_user_turn(single: Any) -> None:
    embed = single.get_input_embeddings()
    message = in_float32(random_message(4, 2, 64))
    found = splice(embed, RAGGED, blocks_of(*message[:3]), device=CPU)
    assert found.embeddings.shape == (4, 32, 64)
    for number, row in enumerate(RAGGED):
        length = len(row.token_ids) + 4
        own = embed(torch.tensor(row.token_ids))
        embeddings, mask = found.embeddings[number], found.mask[number]
        assert torch.equal(embeddings[: row.at], own[: row.at])
        assert torch.equal(embeddings[row.at], message.bop)
        assert torch.equal(embeddings[row.at + 1 : row.at + 3], message.latents[number])
        assert torch.equal(embeddings[row.at + 3], message.eop)
        assert torch.equal(embeddings[row.at + 4 : length], own[row.at :])
        assert not embeddings[length:].any()
        assert mask.tolist() == [1] * length + [0] * (32 - length)
        assert found.positions[number, :length].tolist() == list(range(length))
        labels = [t if s else IGNORED for t, s in zip(row.token_ids, row.supervised, strict=True)]
        labels[row.at : row.at] = [IGNORED] * 4
        assert found.labels[number].tolist() == labels + [IGNORED] * (32 - length)


def test_on_the_left_padding_takes_no_position(single: Any) -> None:
    embed = single.get_input_embeddings()
    blocks = blocks_of(*in_float32(random_message(4, 2, 64))[:3])
    right = splice(embed, RAGGED, blocks, device=CPU)
    left = splice(embed, RAGGED, blocks, device=CPU, left=True)
    for number, row in enumerate(RAGGED):
        length = len(row.token_ids) + 4
        assert torch.equal(left.embeddings[number, 32 - length :], right.embeddings[number, :length])
        assert torch.equal(left.labels[number, 32 - length :], right.labels[number, :length])
        assert left.positions[number, 32 - length :].tolist() == list(range(length))
        assert left.mask[number].tolist() == [0] * (32 - length) + [1] * length


def test_the_window_holds_the_same_tokens_with_and_without_the_block() -> None:
    with_block, without = places_of(RAGGED, 10, 3, CPU), places_of(RAGGED, 0, 3, CPU)
    assert with_block.targets.tolist() == without.targets.tolist()
    assert with_block.in_window.tolist() == without.in_window.tolist()
    # Row 3 begins with its assistant: one token nothing predicts, one before the block, then three of nine.
    last = without.rows == 3
    assert without.in_window[last].tolist() == [False, True, True, True] + [False] * 6
    assert without.positions[last].tolist() == [0, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    # The first token of the reply is predicted by the block's last vector.
    assert with_block.positions[last].tolist() == [0, 14, 15, 16, 17, 18, 19, 20, 21, 22]


def test_truncation_cuts_the_end_and_never_the_place_of_the_block() -> None:
    row = conversation(("user", 5), ("assistant", 7))
    assert shortened(row, 12) == row
    assert shortened(row, 8) == Packed(row.token_ids[:8], row.supervised[:8], 5, 4)
    assert shortened(row, 3) == Packed(row.token_ids[:3], row.supervised[:3], 3, 9)
    with pytest.raises(ValueError, match="room=0"):
        shortened(row, 0)
