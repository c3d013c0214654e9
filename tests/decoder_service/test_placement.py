"""Device, number format and quantization: chosen by what is there, refused where it is not."""

from __future__ import annotations

import pytest
import torch

from decoder_service.engines.placement import Placement, _quantization, place
from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


@NO_CUDA
def test_a_machine_without_a_gpu_runs_in_float32() -> None:
    if torch.backends.mps.is_available():
        assert place(DecoderSettings(), 10**9) == Placement("mps", torch.float16, "none")
    else:
        assert place(DecoderSettings(), 10**9) == Placement("cpu", torch.float32, "none")


def test_what_is_asked_for_is_what_is_used() -> None:
    settings = DecoderSettings(device="cpu", dtype="bfloat16", quantization="none")
    assert place(settings, 1) == Placement("cpu", torch.bfloat16, "none")


@NO_CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InvalidRequest, match=f"DECODER_DEVICE='{device}': .*use auto or cpu"):
        place(DecoderSettings(device=device), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_cuda_machine_loads_large_models_in_four_bits() -> None:
    placement = place(DecoderSettings(), 10**9)
    assert placement.device == "cuda" and placement.quantization == "nf4"
    assert place(DecoderSettings(), 10**6).quantization == "none"


def test_four_bits_are_for_large_models_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert _quantization("auto", "cuda", 1_500_000_000) == "nf4"
    assert _quantization("auto", "cuda", 600_000) == "none"
    assert _quantization("auto", "mps", 1_500_000_000) == "none"
    assert _quantization("auto", "cpu", 1_500_000_000) == "none"
    assert _quantization("int8", "cuda", 600_000) == "int8"


def test_without_bitsandbytes_auto_does_without_and_a_wish_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _quantization("auto", "cuda", 1_500_000_000) == "none"
    with pytest.raises(InvalidRequest, match=r"psuedoptimal\[cuda\]"):
        _quantization("nf4", "cuda", 1_500_000_000)
    with pytest.raises(InvalidRequest, match="not on MPS"):
        _quantization("nf4", "mps", 1_500_000_000)
