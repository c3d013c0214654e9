"""Two optimizers as one: what is trained by which, and a state that goes on where it was saved."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.starter.muon import Muon, MuonAdamW, hidden, orthogonal


def small() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(shape)


def step(model: LlamaForCausalLM, optimizer: MuonAdamW, seed: int) -> None:
    torch.manual_seed(seed)
    ids = torch.randint(0, 40, (4, 10))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def make(model: LlamaForCausalLM) -> tuple[MuonAdamW, torch.optim.lr_scheduler.LambdaLR]:
    optimizer = MuonAdamW(model, muon_rate=0.02, adamw_rate=0.01)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 1))


def test_every_parameter_is_trained_once_and_the_embedding_by_adamw() -> None:
    model = small()
    optimizer, _ = make(model)
    muon, adamw = ({id(p) for g in one.param_groups for p in g["params"]} for one in optimizer.both)
    assert muon.isdisjoint(adamw)
    assert muon | adamw == {id(p) for p in model.parameters()}
    assert id(model.get_input_embeddings().weight) in adamw
    assert id(model.model.layers[0].self_attn.q_proj.weight) in muon


def test_a_saved_state_goes_on_as_if_it_had_not_been_saved(tmp_path: Path) -> None:
    whole = small()
    optimizer, schedule = make(whole)
    for seed in range(3):
        step(whole, optimizer, seed)
        schedule.step()
    again = small()
    again.load_state_dict(whole.state_dict())
    other, later = make(again)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    later.load_state_dict(schedule.state_dict())
    for seed in range(3, 6):
        for model, one, rate in ((whole, optimizer, schedule), (again, other, later)):
            step(model, one, seed)
            rate.step()
    assert [g["lr"] for g in other.param_groups] == [0.02 / 7, 0.01 / 7]
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_orthogonal_matrices_keep_their_singular_vectors() -> None:
    torch.manual_seed(1)
    for shape in ((3, 16, 24), (2, 24, 16), (1, 16, 16)):
        given = torch.randn(shape)
        found = orthogonal(given)
        u, _, vt = torch.linalg.svd(given, full_matrices=False)
        inside = u.mT @ found @ vt.mT
        values = torch.diagonal(inside, dim1=1, dim2=2)
        assert ((values > 0.5) & (values < 1.3)).all()
        assert torch.allclose(inside, torch.diag_embed(values), atol=1e-4)


def test_a_step_is_torchs_own_but_for_its_rounding() -> None:
    ours, theirs = small(), small()
    one = Muon(hidden(ours), lr=0.02)
    two = torch.optim.Muon(hidden(theirs), lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        torch.manual_seed(seed)
        for a, b in zip(hidden(ours), hidden(theirs), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        one.step()
        two.step()
    before = hidden(small())
    for start, a, b in zip(before, hidden(ours), hidden(theirs), strict=True):
        moved, other = a - start, b - start
        assert moved.norm() > 0.1
        # torch's iterates in bfloat16: three digits.
        assert (moved - other).norm() < 0.02 * moved.norm()
