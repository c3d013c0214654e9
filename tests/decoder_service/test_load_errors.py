"""A model that cannot be loaded: the cause and the way out, and whether a setting can mend it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

from decoder_service.engines.hf import load_engine
from decoder_service.engines.load_errors import load_error
from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest

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
    found = load_error(settings, "some/model", "weights", wrapped(cause))
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
    found = load_error(DecoderSettings(), "m", "weights", error)
    assert type(found) is InvalidRequest and "memory does not hold it" in str(found)


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


def setting(**changes: Any) -> Callable[[Path], None]:
    """Change config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Change the checkpoint."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(weights(lambda held: held.pop(NORM)), f"its checkpoint lacks {NORM};"),
     (setting(intermediate_size=64), r"layers.0.mlp.down_proj.weight \[64, 128\] for \[64, 64\]"),
     (weights(lambda held: held[NORM].fill_(torch.nan)), "float32 it gives numbers that are not finite"),
     (written("model.safetensors", "no weights"), "its weights cannot be loaded: SafetensorError"),
     (written("tokenizer.json", "{}"), "its tokenizer cannot be loaded"),
     (written("chat_template.jinja", "{% for"), "its chat template cannot be loaded: TemplateSyntaxError"),
     (setting(hidden_size="wide"), "its config.json cannot be loaded: .*expected int, got str"),
     (setting(model_type="own", auto_map={"AutoConfig": "own.Config"}), "code of its own, which is never")],
)  # fmt: skip
def test_a_folder_that_holds_no_whole_model_is_refused_with_what_is_wrong(
    build_model: Callable[..., Path], tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(build_model(tmp_path, "qwen2"))
    with pytest.raises(InvalidRequest, match=words) as caught:
        load_engine(DecoderSettings(model=str(tmp_path)))
    assert caught.value.field == "DECODER_MODEL" and caught.value.hint
