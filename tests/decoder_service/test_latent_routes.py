"""The latent routes over HTTP: the same numbers as in process, and every refusal by name."""

from __future__ import annotations

import base64
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decoder_service.engines.hf import load_engine
from decoder_service.latent_losses import Message, Terms, latent_loss
from decoder_service.settings import DecoderSettings
from shared.clients import DecoderClient, run
from shared.errors import InvalidRequest, Unsupported
from shared.tensors import Tensor as WireTensor
from shared.tensors import floats, to_tensor
from shared.wire_latents import Turn

TALKS = [
    [("user", "f x sum"), ("assistant", "def total(numbers):")],
    [("system", "short"), ("user", "q"), ("assistant", "return"), ("user", "more"), ("assistant", "class A")],
    [("user", "filter even map square"), ("assistant", "import math"), ("user", "and then")],
]


def wire(tensor: Tensor, dtype: Any = "float32") -> WireTensor:
    held = tensor.to(getattr(torch, dtype)).contiguous()
    return to_tensor(ctypes.string_at(held.data_ptr(), held.nbytes), dtype=dtype, shape=list(tensor.shape))


def values(tensor: WireTensor | None) -> Tensor:
    assert tensor is not None
    return torch.tensor(floats(tensor)).reshape(tensor.shape)


def conversations(talks: list[list[tuple[str, str]]]) -> list[list[Turn]]:
    return [[Turn(role=role, content=text) for role, text in talk] for talk in talks]  # type: ignore[arg-type]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def service(start: Callable[..., Any], model_dir: Path) -> Any:
    return start(model=model_dir)


@pytest.fixture(scope="module")
def client(service: Any) -> DecoderClient:
    return DecoderClient(service.url, deadline_s=60)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Any:
    return load_engine(DecoderSettings(model=str(model_dir)))


@pytest.mark.parametrize(
    ("dtype", "vectors"),
    [("float32", 1), ("float32", 8), ("float32", 128), ("float16", 8), ("bfloat16", 8)],
)
def test_loss_and_gradient_over_http_are_those_in_process(
    client: DecoderClient, engine: Any, dtype: Any, vectors: int
) -> None:
    """Bit for bit; test_latents.py holds what is computed in process against a float64 reference."""
    message = Message(
        drawn(3, vectors, 64), drawn(64, seed=1), drawn(64, seed=2), drawn(3, vectors, 64, seed=3)
    )
    sent = [wire(each, dtype) for each in message if each is not None]
    reply = run(
        client.latent_loss(
            sent[0], conversations(TALKS), bop=sent[1], eop=sent[2], data_latents=sent[3], window=5
        )
    )
    batch = engine.latents._packing.told(conversations(TALKS), "plain")
    received = Message(*[values(each) for each in sent])
    here = latent_loss(engine._model, batch, received, Terms(window=5), rows=3)
    assert (reply.loss, reply.ce, reply.kl, reply.align) == (here.loss, here.ce, here.kl, here.align)
    assert here.gradient is not None and here.kl
    assert torch.equal(values(reply.gradient), here.gradient.latents)
    assert torch.equal(values(reply.bop_gradient), here.gradient.bop)
    assert torch.equal(values(reply.eop_gradient), here.gradient.eop)
    assert [row.ce for row in reply.rows] == here.row_ce
    assert [row.tokens for row in reply.rows] == [len(row.token_ids) + vectors + 2 for row in batch]
    assert reply.loss == pytest.approx(reply.ce + (reply.kl or 0) + (reply.align or 0))


def test_a_student_that_follows_the_gradient_makes_the_program_likelier(client: DecoderClient) -> None:
    """Blind: from the latent message alone. The trainer's whole loop, and the loss really falls."""
    programs = conversations([[("assistant", "return x")], [("assistant", "class A: pass")]])
    latents = drawn(2, 4, 64)
    first = run(client.latent_loss(wire(latents), programs, layout="blind"))
    reply = first
    for _ in range(40):
        latents -= 0.5 * values(reply.gradient)
        reply = run(client.latent_loss(wire(latents), programs, layout="blind"))
    assert reply.loss < 0.5 * first.loss
    assert reply.kl is None and reply.align is None


def test_a_latent_message_of_embeddings_is_the_text_message(client: DecoderClient, service: Any) -> None:
    """With bop and eop taken from the text as well, the blind route reads what /v1/decode reads."""
    text = "sum the words"
    found = run(client.embed([text])).embeddings[0]
    vectors = values(found)
    wanted = service.decode([text], max_new_tokens=25).json()["programs"][0]["text"]
    programs = run(
        client.latent_decode(
            wire(vectors[None, 1:-1]), bop=wire(vectors[0]), eop=wire(vectors[-1]), max_new_tokens=25
        )
    )
    assert programs[0].text == wanted and wanted


def test_decoding_ragged_conversations_does_not_depend_on_the_neighbours(client: DecoderClient) -> None:
    talks = conversations([talk for talk in TALKS if talk[-1][0] == "user"] + [[("user", "f " * 30)]])
    latents = drawn(2, 6, 64)
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 5}):
        for layout in ("plain", "chat"):
            same: dict[str, Any] = {**options, "layout": layout, "max_new_tokens": 20}
            both = run(client.latent_decode(wire(latents), conversations=talks, **same))
            alone = [
                run(client.latent_decode(wire(latents[n : n + 1]), conversations=talks[n : n + 1], **same))[0]
                for n in range(2)
            ]
            assert alone == both
    other = run(client.latent_decode(wire(-latents), conversations=talks, max_new_tokens=20, layout="plain"))
    none = run(client.latent_decode(None, conversations=talks, max_new_tokens=20, layout="plain"))
    greedy = run(client.latent_decode(wire(latents), conversations=talks, max_new_tokens=20, layout="plain"))
    assert len({str([each.text for each in found]) for found in (other, none, greedy)}) == 3


@pytest.mark.parametrize("at", ["predicting", "token"])
def test_hidden_states_are_the_last_layers_at_the_plans_tokens(
    client: DecoderClient, engine: Any, at: Any
) -> None:
    found = run(client.hidden(conversations(TALKS), at=at))
    for row, (hidden, text) in zip(
        engine.latents._packing.told(conversations(TALKS), "plain"), found, strict=True
    ):
        out = engine._model(input_ids=torch.tensor([row.token_ids]), output_hidden_states=True)
        said = [place for place, wanted in enumerate(row.supervised) if wanted]
        wanted = out.hidden_states[-1][0, [place - (at == "predicting") for place in said]]
        assert torch.allclose(values(hidden), wanted, atol=1e-5)
        assert text == engine._prompting.text([[row.token_ids[place] for place in said]])[0]


def test_a_plan_the_model_writes_has_the_states_it_was_written_from(
    client: DecoderClient, engine: Any
) -> None:
    asked = conversations([[("user", "f x sum")], [("user", "a much longer question " * 5)]])
    found = run(client.hidden(asked, max_new_tokens=12))
    for talk, (hidden, text) in zip(asked, found, strict=True):
        ids = list(engine.latents._packing.asked([talk], "plain")[0].token_ids)
        states, said = [], []
        while len(said) < 12:
            out = engine._model(input_ids=torch.tensor([ids + said]), output_hidden_states=True)
            token = int(out.logits[0, -1].argmax())
            if token in engine._stop_ids:
                break
            states.append(out.hidden_states[-1][0, -1])
            said.append(token)
        assert text == engine._prompting.text([said])[0]
        assert torch.allclose(values(hidden), torch.stack(states), atol=1e-5)


def test_embeddings_and_their_statistics(client: DecoderClient, engine: Any) -> None:
    table = engine._model.get_input_embeddings().weight
    found = run(client.embed(token_ids=[[3, 4, 5], [7]]))
    assert torch.equal(values(found.embeddings[0]), table[[3, 4, 5]])
    assert torch.equal(values(found.embeddings[1]), table[[7]])
    assert found.norm_mean == pytest.approx(table.norm(dim=-1).mean().item())
    assert found.norm_std == pytest.approx(table.norm(dim=-1).std().item())
    assert found.rms == pytest.approx(table.square().mean().sqrt().item())
    # The marks that stand in look like embeddings and are the same in every process.
    assert values(found.bop).norm().item() == pytest.approx(found.norm_mean, rel=0.4)
    assert not torch.equal(values(found.bop), values(found.eop))
    here = engine.latents._model.table
    assert torch.equal(here.bop, values(found.bop)) and torch.equal(here.eop, values(found.eop))


def body(**changes: Any) -> dict[str, Any]:
    """A right loss request, and what to change in it."""
    right = {
        "latents": wire(drawn(1, 2, 64)).model_dump(),
        "conversations": [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]],
    }
    return {**right, **changes}


def spoilt(value: float) -> dict[str, Any]:
    raw = bytearray(ctypes.string_at(drawn(1, 2, 64).data_ptr(), 512))
    tensor = torch.frombuffer(raw, dtype=torch.float32)
    tensor[77] = value
    return {**wire(drawn(1, 2, 64)).model_dump(), "data": base64.b64encode(raw).decode()}


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"latents": wire(drawn(1, 2, 63)).model_dump()}, "latents", "width 63 is not the model's width 64"),
        ({"latents": wire(drawn(2, 2, 64)).model_dump()}, "latents", "2 messages for 1 conversations"),
        ({"latents": wire(drawn(2, 64)).model_dump()}, "latents", "it must be [N, K, D]"),
        ({"latents": spoilt(float("nan"))}, "latents", "not a number"),
        ({"latents": spoilt(float("inf"))}, "latents", "infinite"),
        ({"latents": {"dtype": "float64", "shape": [1, 1, 1], "data": "AAAAAAAAAAA="}}, "latents.dtype", ""),
        ({"bop": wire(drawn(65)).model_dump()}, "bop", "width 65 is not the model's width 64"),
        ({"eop": wire(drawn(1, 64)).model_dump()}, "eop", "it must be [D]"),
        ({"data_latents": wire(drawn(1, 3, 64)).model_dump()}, "data_latents", "shape [1, 3, 64]"),
        ({"conversations": [[{"role": "user", "content": "q"}]]}, "conversations[0]", "no assistant turn"),
        ({"conversations": []}, "conversations", "at least 1"),
        ({"max_length": 4}, "max_length", "does not even hold the block of 4"),
        ({"max_length": 5}, "conversations[0]", "none of its assistant's tokens is left"),
        ({"max_length": 99_999}, "max_length", "more than the model's context of 1024"),
        ({"latents": wire(drawn(1, 1100, 64)).model_dump()}, "conversations[0]", "over the model's context"),
        ({"task": "Write a function"}, "task", "Extra inputs"),
        ({"kl_temperature": 0}, "kl_temperature", "greater than 0"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_by_the_fields_name(
    service: Any, changes: dict[str, Any], field: str, why: str
) -> None:
    reply = service.client.post("/v1/latents/loss", json=body(**changes))
    assert reply.status_code == 422, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["field"] == field and why in reply.json()["detail"]


def test_the_blind_route_has_no_room_for_a_task(service: Any) -> None:
    latents = wire(drawn(1, 2, 64)).model_dump()
    talk = [[{"role": "user", "content": "Write a function to add numbers."}]]
    told = service.client.post("/v1/latents/decode", json={"latents": latents, "conversations": talk})
    assert told.status_code == 422 and told.json()["field"] == "conversations"
    assert "the latent message alone" in told.json()["detail"]
    for field in ("task", "prompt", "messages", "system"):
        reply = service.client.post("/v1/latents/decode", json={"latents": latents, field: "add numbers"})
        assert reply.status_code == 422 and reply.json()["field"] == field


def test_vectors_that_overflow_the_model_are_refused(client: DecoderClient) -> None:
    talk = conversations([[("user", "q"), ("assistant", "a")]])
    with pytest.raises(InvalidRequest, match=r"numbers overflow.*scale them"):
        run(client.latent_loss(wire(torch.full((1, 2, 64), 3e38)), talk))


def test_an_engine_without_vectors_says_so(start: Callable[..., Any]) -> None:
    client = DecoderClient(start(engine="echo").url)
    talk = conversations([[("user", "q"), ("assistant", "a")]])
    calls = [
        client.latent_loss(wire(drawn(1, 2, 64)), talk), client.latent_decode(wire(drawn(1, 2, 64))),
        client.hidden(talk), client.embed(["a"]),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unsupported, match=r"engine 'echo' takes text only.*DECODER_ENGINE=hf"):
            run(call)
