"""Controls, precisions and message files, by numbers worked out another way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.channels.latent.controls import covariance_noise, mismatched, rotated, tiled, white_noise
from trainer.channels.latent.message_file import Letter, read_letter, write_letter
from trainer.channels.latent.mixing import mixed
from trainer.channels.latent.quantise import Precision, bits_per_message, packed, restored
from trainer.config import ConfigError


def latents(count: int = 400, vectors: int = 4, width: int = 6) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=chance)
    return torch.randn(count, vectors, width, generator=chance) @ mixing + 0.7


def test_white_noise_has_every_vectors_norm_and_no_direction_of_it() -> None:
    given = latents()
    noise = white_noise(given, 1)
    torch.testing.assert_close(noise.norm(dim=-1), given.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(noise, given, dim=-1)
    assert abs(cosine.mean().item()) < 0.05


def test_covariance_noise_has_the_latents_covariance() -> None:
    given = latents()
    vectors = given.flatten(0, 1)
    for mean in (True, False):
        noise = covariance_noise(given, 1, mean=mean).flatten(0, 1)
        torch.testing.assert_close(torch.cov(noise.T), torch.cov(vectors.T), atol=1.2, rtol=0.15)
        centre = vectors.mean(dim=0) if mean else torch.zeros(6)
        torch.testing.assert_close(noise.mean(dim=0), centre, atol=0.3, rtol=0)


def test_a_rotation_keeps_every_angle_and_norm() -> None:
    given = latents(5)
    turned = rotated(given, 1)
    flat, moved = given.flatten(0, 1), turned.flatten(0, 1)
    torch.testing.assert_close(moved @ moved.T, flat @ flat.T, atol=1e-4, rtol=1e-4)
    assert (moved - flat).abs().max() > 0.1


def test_a_mismatched_message_is_another_programs() -> None:
    programs = ["a", "a", "b", "a", "c"]
    found = mismatched(programs)
    assert all(programs[other] != program for other, program in zip(found, programs, strict=True))
    with pytest.raises(ValueError, match="all references are equal"):
        mismatched(["a", "a"])


def test_a_short_plan_is_repeated_and_a_long_one_cut() -> None:
    rows = [torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])]
    assert tiled(rows, 3).flatten(1).tolist() == [[1, 2, 1], [1, 2, 3]]


@pytest.mark.parametrize(("precision", "bits", "most"), [
    ("fp32", 4 * 6 * 32, 0.0), ("fp16", 4 * 6 * 16, 1e-3), ("int8", 4 * 6 * 8 + 4 * 16, 0.5 / 127 + 1e-3),
    ("int4", 4 * 6 * 4 + 4 * 16, 0.5 / 7 + 1e-3),
])  # fmt: skip
def test_a_precision_loses_at_most_half_a_step_and_counts_its_scales(
    precision: Precision, bits: int, most: float
) -> None:
    given = latents(20)
    sent = packed(given, precision)
    largest = given.abs().amax(dim=-1, keepdim=True)
    assert ((restored(sent) - given).abs() / largest).max().item() <= most
    assert bits_per_message(4, 6, precision) == bits
    scales = 0 if sent.scales is None else sent.scales[0].numel() * 16
    assert sent.values[0].numel() * sent.values.element_size() * 8 + scales == bits


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_a_message_file_gives_back_what_the_precision_holds(tmp_path: Path, precision: Precision) -> None:
    given, file = latents(2), tmp_path / "m.safetensors"
    write_letter(file, Letter(given, torch.ones(6), torch.zeros(6), "t", "abc"), precision)
    found = read_letter(file)
    torch.testing.assert_close(found.latents, restored(packed(given, precision)), atol=0, rtol=0)
    assert (found.teacher, found.weights_sha256) == ("t", "abc")


def test_what_is_no_message_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "x.safetensors"
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        read_letter(file)
    save_file({"latents": torch.ones(1, 2, 2)}, file)
    with pytest.raises(ConfigError, match="no latent message"):
        read_letter(file)


def test_a_mixed_message_keeps_its_first_vectors_and_ends_in_the_plan() -> None:
    torch.manual_seed(0)
    count, vectors, width = 200, 10, 3
    latents = torch.full((count, vectors, width), 7.0, requires_grad=True)
    plans = [None if row % 4 == 0 else torch.arange(6.0)[:, None].expand(6, width) for row in range(count)]
    fill = torch.full((width,), -1.0)
    found = mixed(latents, plans, fill, 1.0)
    plan = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -1.0, -1.0, -1.0]
    kept = [int((row == 7).all(dim=-1).sum()) for row in found]
    for row, own in enumerate(kept):
        assert found[row, :, 0].tolist() == [7.0] * own + plan[own:]
    assert {kept[row] for row in range(count) if row % 4} == set(range(1, 10))
    assert {kept[row] for row in range(0, count, 4)} == {vectors}
    # The gradient reaches what was kept, and nothing else.
    found.sum().backward()
    assert latents.grad is not None
    assert latents.grad.sum(dim=(1, 2)).tolist() == [float(width * own) for own in kept]
    assert torch.equal(mixed(latents, plans, fill, 0.0), latents)
    half = mixed(latents, [plans[1]] * count, fill, 0.5)
    assert 70 < int((half == 7).all(dim=-1).all(dim=-1).sum()) < 130
