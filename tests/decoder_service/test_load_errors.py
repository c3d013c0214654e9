"""A model that cannot be loaded: the cause and the way out, and whether a setting can mend it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from decoder_service.engines.hf import load_engine
from decoder_service.engines.load_errors import load_error
from decoder_service.settings import DecoderSettings
from shared.errors import Broken, InvalidRequest

RESPONSE = httpx2.Response(403, request=httpx2.Request("GET", "https://example.invalid"))


def wrapped(cause: Exception) -> OSError:
    """As from_pretrained raises it: an OSError in its own words around what the hub said."""
    try:
        raise OSError("You are trying to access ...") from cause
    except OSError as error:
        return error


@pytest.mark.parametrize(
    ("cause", "field", "words"),
    [(GatedRepoError("x", response=RESPONSE), "DECODER_MODEL", "restricted; accept its terms"),
     (RepositoryNotFoundError("x", response=RESPONSE), "DECODER_MODEL", "the hub knows no such model"),
     (RevisionNotFoundError("x", response=RESPONSE), "DECODER_REVISION", "'gone': 'some/model' has no")],
)  # fmt: skip
def test_what_the_hub_refuses_is_a_setting_to_mend(cause: Exception, field: str, words: str) -> None:
    settings = DecoderSettings(model="some/model", revision="gone")
    found = load_error(settings, "some/model", wrapped(cause))
    assert type(found) is InvalidRequest and found.field == field and words in str(found)


def test_a_model_that_is_not_here_and_cannot_be_fetched_ends_with_two(
    run_to_its_end: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    ended = run_to_its_end(model="some/model")
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2, ended.stderr[-1500:]
    assert "DECODER_MODEL='some/model'" in last and "hf download some/model" in last


def test_memory_that_does_not_hold_the_model_is_told_as_such() -> None:
    error = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    found = load_error(DecoderSettings(), "m", error)
    assert type(found) is Broken and "memory does not hold it" in str(found)


@pytest.mark.parametrize("asked", ["nf4", "int8"])
def test_a_wish_the_checkpoint_contradicts_is_refused(
    build_model: Callable[..., Path], tmp_path: Path, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_model(tmp_path, "qwen2")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(InvalidRequest, match=f"DECODER_QUANTIZATION='{asked}': .*already quantized .gptq"):
        load_engine(DecoderSettings(model=str(folder), quantization=asked))
