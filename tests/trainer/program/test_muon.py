"""Two optimizers as one: what is trained by which, and a state that goes on where it was saved."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.starter.muon import MuonAdamW


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
