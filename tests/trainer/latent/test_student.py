"""Proofs on random models: the context matters, and the cache changes nothing but the time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, LlamaConfig, Qwen2Config

from trainer.channels.latent.head import HiddenStateHead
from trainer.channels.latent.student import LatentStudent

K = 5


def base(attention: str = "sdpa", kind: str = "llama") -> Any:
    torch.manual_seed(0)
    shape = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](
        vocab_size=50, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation=attention,
    )  # fmt: skip
    return AutoModel.from_config(shape)


def student(model: Any, **how: Any) -> LatentStudent:
    torch.manual_seed(1)
    made = LatentStudent(model, 16, K, head=HiddenStateHead(16, heads=4, dropout=0.0), **how)
    with torch.no_grad():
        # As large as what the model reads: at 0.02 the start vector would hardly be seen.
        if made.mode == "autoregressive":
            made.start.normal_(std=0.5)
    return made


def batch() -> tuple[Tensor, Tensor]:
    """Two contexts of 9 and 6 tokens, padded on the left."""
    ids = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    return ids, mask


def recomputed(made: LatentStudent, ids: Tensor, mask: Tensor) -> Tensor:
    """Every latent by a pass over the whole row, alone, without cache, mask or padding."""
    rows = []
    for row, seen in zip(ids, mask, strict=True):
        inputs = made.base.get_input_embeddings()(row[seen == 1])[None]
        states: list[Tensor] = []
        given = made.start[None, None]
        for _ in range(K):
            inputs = torch.cat([inputs, given], dim=1)
            states.append(made.base(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:])
            given = made.h2e(states[-1])
        rows.append(torch.cat(states, dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_latents_and_their_gradient_are_those_without_a_cache(
    attention: str, recompute: bool, kind: str
) -> None:
    made = student(base(attention, kind), recompute=recompute)
    made.train()
    ids, mask = batch()
    weights = torch.randn(2, K, 24, generator=torch.Generator().manual_seed(3))
    found = made.raw(ids, mask)
    torch.testing.assert_close(found, recomputed(made, ids, mask), atol=1e-5, rtol=1e-5)
    (found * weights).sum().backward()
    cached = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    (recomputed(made, ids, mask) * weights).sum().backward()
    plain = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    assert cached.keys() == plain.keys()
    assert {"start", "h2e.1.weight", "base.embed_tokens.weight"} <= set(cached)
    for name, grad in plain.items():
        torch.testing.assert_close(cached[name], grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
def test_every_context_token_changes_the_latents_by_as_much_as_without_a_cache(recompute: bool) -> None:
    made = student(base(), recompute=recompute)
    made.train()
    ids, mask = batch()
    before, plain_before = made.raw(ids, mask), recomputed(made, ids, mask)
    for row, place in [(0, 0), (0, 1), (0, 4), (0, 7), (0, 8), (1, 3), (1, 5), (1, 8)]:
        other = ids.clone()
        other[row, place] = ids[row, place] % 49 + 1
        moved = (made.raw(other, mask) - before).detach()
        assert float(moved[row].abs().max()) > 1e-4, (row, place)
        assert float(moved[1 - row].abs().max()) < 1e-6
        torch.testing.assert_close(
            moved, (recomputed(made, other, mask) - plain_before).detach(), atol=1e-5, rtol=1e-4
        )


def test_padding_is_not_seen() -> None:
    made, (ids, mask) = student(base()), batch()
    other = ids.clone()
    other[1, :3] = 7
    torch.testing.assert_close(made.raw(other, mask), made.raw(ids, mask))


def test_each_latent_depends_on_the_one_before() -> None:
    made, (ids, mask) = student(base()), batch()
    grads = torch.autograd.grad(made.raw(ids, mask)[0, K - 1].square().sum(), made.start)
    assert grads[0].abs().max().item() > 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_queries_are_one_pass_over_the_whole_row(attention: str) -> None:
    made = student(base(attention), mode="queries")
    ids, mask = batch()
    found = made.raw(ids, mask)
    for row in range(2):
        tokens = made.base.get_input_embeddings()(ids[row][mask[row] == 1])
        inputs = torch.cat([tokens, made.queries])[None]
        alone = made.base(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, -K:]
        torch.testing.assert_close(found[row], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["seed", "interlat"])
def test_the_head_starts_at_an_embeddings_size(form: Any) -> None:
    torch.manual_seed(4)
    head = HiddenStateHead(64, form=form)
    head.calibrate(0.02)
    head.eval()
    made = head(torch.randn(4, 128, 64))
    assert made.detach().square().mean().sqrt().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize(("form", "factor"), [("seed", 9), ("interlat", 6)])
def test_the_heads_have_the_published_sizes(form: Any, factor: int) -> None:
    width = 128
    count = sum(p.numel() for p in HiddenStateHead(width, form=form).parameters())
    assert count / width**2 == pytest.approx(factor, rel=0.02)


def test_data_latents_have_no_chance_in_them_and_no_gradient() -> None:
    torch.manual_seed(5)
    made = LatentStudent(base(), 16, K, head=HiddenStateHead(16, heads=4, dropout=0.5))
    made.train()
    data = torch.randn(2, K, 16)
    first, second = made.data_latents(data), made.data_latents(data)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert not first.requires_grad
    assert made.head.training


def test_a_published_heads_scalars_are_read() -> None:
    head = HiddenStateHead(16, heads=4)
    state = {
        name: value.reshape(()) if name.endswith(("residual", "projection.size")) else value
        for name, value in head.state_dict().items()
    }
    assert sum(value.ndim == 0 for value in state.values()) == 3
    state["projection.size"] = torch.tensor(0.7)
    head.load_state_dict(state)
    assert head.projection.size.tolist() == pytest.approx([0.7])
    # DeepSpeed refuses a parameter without a dimension.
    assert all(parameter.ndim for parameter in head.parameters())
