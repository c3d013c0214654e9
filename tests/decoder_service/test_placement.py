"""Device, number format and quantization: chosen by what is there, refused where it is not."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM

from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.hf import HfEngine, load_engine
from decoder_service.engines.placement import Placement, _quantization, check_spread, devices_of, place
from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest

PARTS = dict.fromkeys(
    ["model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head"],
    "cpu",
)
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


def programs(engine: HfEngine, temperature: float = 0.0) -> list[Any]:
    messages = ["f x", "total of the numbers", "g " * 30]
    rows = [Row(message, ids, 3) for message, ids in zip(messages, engine.prepare(messages), strict=True)]
    decoding = Decoding(20, temperature)
    together = engine.decode(rows, decoding)
    assert [engine.decode([row], decoding)[0] for row in rows] == together
    return together


@NO_CUDA
def test_a_model_spread_over_the_devices_there_are_says_the_same(model_dir: Path, tmp_path: Path) -> None:
    engine = load_engine(DecoderSettings(model=str(model_dir), device_map="auto"))
    plain = programs(load_engine(DecoderSettings(model=str(model_dir))))
    assert engine.card().device == "cpu"
    assert programs(engine) == plain
    # Each layer's inputs now come through accelerate's hooks, as they do on several devices.
    dispatch_model(engine._model, PARTS, main_device="cpu", skip_keys="past_key_values", force_hooks=True)
    assert programs(engine) == plain


def test_a_model_that_only_a_disk_holds_is_refused(model_dir: Path, tmp_path: Path) -> None:
    spread = {**PARTS, "model.layers.1": "disk"}
    model = AutoModelForCausalLM.from_pretrained(model_dir, device_map=spread, offload_folder=tmp_path)
    assert devices_of(model) == ["cpu", "disk"]
    with pytest.raises(InvalidRequest, match=r"'m': .* 1 of its 6 parts would be read from disk"):
        check_spread("m", model)


def test_one_device_cannot_be_named_and_all_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    settings = DecoderSettings(device="cuda:1", device_map="balanced", dtype="bfloat16", quantization="none")
    with pytest.raises(InvalidRequest, match=r"DECODER_DEVICE_MAP='balanced'.*CUDA_VISIBLE_DEVICES"):
        place(settings, 1)
    whole = settings.model_copy(update={"device": "cuda"})
    assert place(whole, 1) == Placement("cuda", torch.bfloat16, "none", "balanced")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra `cuda`)"
)
@pytest.mark.parametrize(("asked", "share"), [("nf4", 0.65), ("int8", 0.75)])
def test_quantized_weights_run_on_the_cpu(
    build_model: Callable[..., Path],
    tmp_path: Path,
    asked: Any,
    share: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = build_model(tmp_path, "qwen2")
    whole = load_engine(DecoderSettings(model=str(folder)))
    with caplog.at_level(logging.WARNING):
        engine = load_engine(DecoderSettings(model=str(folder), quantization=asked))
        assert all(program.tokens for program in programs(engine))
        programs(engine, 1.0)
    assert not [record for record in caplog.records if "MatMul8bitLt" in record.message]
    assert engine.card().quantization == asked and "bitsandbytes" in engine.card().libraries
    assert engine._model.get_memory_footprint() < share * whole._model.get_memory_footprint()


@NO_CUDA
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no NVIDIA GPU answers here"),
        (["--only", "fp8"], "bfloat16 or nf4"),
        (["--gpu"], "argument --gpu"),
    ],
)
def test_the_gpu_script_refuses_in_one_line(arguments: list[str], words: str) -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.sh"
    ended = subprocess.run(["bash", script, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and words in ended.stderr and ended.stderr.count("\n") == 1
