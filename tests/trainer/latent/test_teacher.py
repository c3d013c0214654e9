"""The teacher over HTTP and in process: the same numbers; what it learns from it stays on our side."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from shared.wire_latents import Turn
from trainer.channels.latent.batches import Collator, told
from trainer.channels.latent.engine import LatentTrainer
from trainer.channels.latent.loading import load_speaker
from trainer.channels.latent.teacher import LocalTeacher, RemoteTeacher
from trainer.channels.latent.vectors import from_wire, teacher_loss, to_wire
from trainer.config import resolve
from trainer.config_latent import LatentConfig
from trainer.supervise import Service
from trainer.tasks.conversations import Conversation

K, WIDTH = 3, 32


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Path:
    folder: Path = build(tmp_path_factory.mktemp("teacher"), seed=1, width=WIDTH)
    return folder


def config_of(teacher: Path, student: Path, **more: Any) -> LatentConfig:
    settings = {
        "teacher_model_name_or_path": str(teacher), "student_model_name_or_path": str(student),
        "data_path": "starter", "kl_weight": 0, "align_weight": 0, "K": K, "head_heads": 4,
        "device": "cpu", "model_max_length": 128, **more,
    }  # fmt: skip
    return resolve(LatentConfig, [], settings)


def talk(*texts: str) -> list[Turn]:
    roles = ("user", "assistant")
    return [Turn(role=roles[n % 2], content=text) for n, text in enumerate(texts)]  # type: ignore[arg-type]


TALKS = [
    talk("f x sum", "def total(numbers): return sum(numbers)"),
    talk("q", "return", "more", "class A: pass"),
]


def test_http_and_process_give_the_same_loss_and_gradient(
    teacher_folder: Path, student_folder: Path, tmp_path: Path
) -> None:
    service = Service(
        "decoder", tmp_path / "log", {"DECODER_ENGINE": "hf", "DECODER_MODEL": str(teacher_folder)}
    )
    service.start()
    try:
        service.wait_ready()
        remote = RemoteTeacher(config_of(teacher_folder, student_folder, decoder_url=[service.url]))
        local = LocalTeacher(config_of(teacher_folder, student_folder))
        assert remote.card().weights_sha256 == local.card().weights_sha256
        torch.manual_seed(0)
        latents, data, bop, eop = (0.2 * torch.randn(s) for s in ((2, K, WIDTH), (2, K, WIDTH), WIDTH, WIDTH))
        how: dict[str, Any] = {
            "bop": to_wire(bop), "eop": to_wire(eop), "data_latents": to_wire(data), "max_length": 100,
        }  # fmt: skip
        one, other = (each.loss(to_wire(latents), TALKS, **how) for each in (remote, local))
        for name in ("loss", "ce", "kl", "align"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-5), name
        for name in ("gradient", "bop_gradient", "eop_gradient"):
            torch.testing.assert_close(
                from_wire(getattr(one, name)), from_wire(getattr(other, name)), atol=1e-5, rtol=1e-5
            )
        assert remote.decode_text(["abc"], 8)[0].text == local.decode_text(["abc"], 8)[0].text
    finally:
        service.stop()


def test_the_services_gradient_is_the_one_of_the_whole_graph(
    teacher_folder: Path, student_folder: Path
) -> None:
    """Student, head and teacher in one graph, by hand, against the gradient that came back as numbers."""
    config = config_of(teacher_folder, student_folder, head_dropout=0.0)
    teacher = LocalTeacher(config)
    speaker = load_speaker(config, teacher.embed(["x"]))
    student = speaker.student
    row = Conversation("a", tuple(TALKS[0]))
    batch = Collator(speaker.contexts, None, K, WIDTH, 0).batch([row])
    spoken = student(batch.input_ids, batch.attention_mask)
    reply = teacher.loss(
        to_wire(spoken.latents), [told(row, "plain")], bop=to_wire(spoken.bop), eop=to_wire(spoken.eop)
    )
    teacher_loss(spoken.latents, spoken.bop, spoken.eop, reply).backward()
    sent = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    model, tokenizer = teacher.engine._model, speaker.tokenizer

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    before, said, newline = ids(TALKS[0][0].content) + ids("\n"), ids(TALKS[0][1].content), ids("\n")
    embed = model.get_input_embeddings()
    spoken = student(batch.input_ids, batch.attention_mask)
    inputs = torch.cat([
        embed(torch.tensor(before)), spoken.bop[None], spoken.latents[0], spoken.eop[None],
        embed(torch.tensor(said + newline)),
    ])[None]  # fmt: skip
    logits = model(inputs_embeds=inputs).logits[0]
    first = len(before) + K + 1
    loss = functional.cross_entropy(logits[first : first + len(said)], torch.tensor(said))
    assert reply.loss == pytest.approx(loss.item(), abs=1e-5)
    loss.backward()
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(sent[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)
    assert {"bop", "eop", "start", "head.norm_in.weight"} <= set(sent)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    top = max(row)
    raised = [math.exp((value - top) / temperature) for value in row]
    return [value / math.fsum(raised) for value in raised]


def entropy(row: list[float]) -> float:
    floored = [max(share, 1e-6) for share in softmax(row)]
    return -math.fsum(share * math.log(share) for share in floored)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def test_the_terms_are_those_of_plain_python_on_a_ragged_batch(
    teacher_folder: Path, student_folder: Path
) -> None:
    teacher = LocalTeacher(config_of(teacher_folder, student_folder))
    engine, window, temperature = teacher.engine, 4, 4.0
    torch.manual_seed(3)
    # The small teacher is certain of everything; with random weights some tokens gain and some lose.
    with torch.no_grad():
        for parameter in engine._model.parameters():
            parameter.normal_(std=0.4)
    latents, data = 0.5 * torch.randn(2, K, WIDTH), 4.0 * torch.randn(2, K, WIDTH)
    bop, eop = (0.5 * torch.randn(WIDTH) for _ in range(2))
    reply = teacher.loss(
        to_wire(latents), TALKS, bop=to_wire(bop), eop=to_wire(eop), data_latents=to_wire(data),
        window=window, kl_temperature=temperature, ce_weight=1.0, kl_weight=0.5, align_weight=0.25,
    )  # fmt: skip
    model = copy.deepcopy(engine._model).double()
    embed = model.get_input_embeddings()

    def ids(text: str) -> list[int]:
        return list(engine._prompting.plain([text])[0])

    def run(talk: list[Turn], block: torch.Tensor | None) -> list[tuple[list[float], int]]:
        """For each supervised token: the logits that predict it, and the token."""
        pieces, wanted, place = [], [], 0
        for number, turn in enumerate(talk):
            tokens = ids(turn.content)
            if turn.role == "assistant":
                wanted += [(place + at, token) for at, token in enumerate(tokens)]
            pieces.append(embed(torch.tensor(tokens + ids("\n"))))
            place += len(tokens) + len(ids("\n"))
            if number == 0 and block is not None:
                pieces.append(block.double())
                place += len(block)
        logits = model(inputs_embeds=torch.cat(pieces)[None]).logits[0]
        return [(logits[at - 1].tolist(), token) for at, token in wanted]

    def block(z: torch.Tensor) -> torch.Tensor:
        return torch.cat([bop[None], z, eop[None]])

    with torch.no_grad():
        given = [run(talk, block(latents[n])) for n, talk in enumerate(TALKS)]
        guide = [run(talk, block(data[n])) for n, talk in enumerate(TALKS)]
        alone = [run(talk, None) for talk in TALKS]
    ces = [-math.log(softmax(logits)[token]) for row in given for logits, token in row]
    raw, apart = [], []
    for a, d, b in zip(given, guide, alone, strict=True):
        for (logits_a, _), (logits_d, _), (logits_b, _) in list(zip(a, d, b, strict=True))[:window]:
            raw.append(max(0.0, entropy(logits_b) - entropy(logits_d)))
            p, q = softmax(logits_d, temperature), softmax(logits_a, temperature)
            apart.append(temperature**2 * math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
    positive = [value for value in raw if value > 0]
    assert positive, "the test is empty where no token gains"
    clipped = [min(value, quantile(positive, 0.95)) for value in raw]
    mean = max(math.fsum(clipped) / len(clipped), 1e-6)
    weights = [value / mean for value in clipped]
    kl = math.fsum(w * k for w, k in zip(weights, apart, strict=True)) / (math.fsum(weights) + 1e-6)
    cosines = [
        functional.cosine_similarity(x.double().mean(dim=0), y.double().mean(dim=0), dim=0).item()
        for x, y in zip(latents, data, strict=True)
    ]
    align, ce = 1 - math.fsum(cosines) / 2, math.fsum(ces) / len(ces)
    assert reply.ce == pytest.approx(ce, abs=1e-5)
    assert reply.kl == pytest.approx(kl, rel=1e-3)
    assert reply.align == pytest.approx(align, abs=1e-5)
    assert reply.loss == pytest.approx(ce + 0.5 * reply.kl + 0.25 * align, abs=1e-5)
    assert reply.window_tokens == sum(min(window, len(row)) for row in given)


def test_the_teacher_is_no_part_of_the_student(teacher_folder: Path, student_folder: Path) -> None:
    config = config_of(teacher_folder, student_folder)
    teacher = LocalTeacher(config)
    speaker = load_speaker(config, teacher.embed(["x"]))
    own = {id(parameter) for parameter in speaker.student.parameters()}
    assert not own & {id(parameter) for parameter in teacher.engine._model.parameters()}
    assert LatentTrainer.__mro__[1].__name__ == "Trainer"
