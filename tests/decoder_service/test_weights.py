"""Finding the model, and naming its weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decoder_service.engines import weights
from decoder_service.engines.weights import find_model, weights_sha256
from shared.errors import InvalidRequest


def test_a_folder_with_a_config_is_a_model_and_a_bare_name_is_left_to_the_hub(model_dir: Path) -> None:
    assert find_model(str(model_dir)) == model_dir
    assert find_model("Qwen/Qwen2.5-Coder-1.5B-Instruct") == "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert find_model("gpt2") == "gpt2"


@pytest.mark.parametrize(
    ("name", "says"),
    [("empty", "holds no config.json"), ("none", "no such folder"), ("file", "is a file, not a folder")],
)
def test_a_folder_without_a_model_is_refused_with_a_way_out(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    given = str(tmp_path / name)
    with pytest.raises(InvalidRequest) as caught:
        find_model(given)
    text = str(caught.value)
    assert says in text and f"DECODER_MODEL={given!r}" in text and "DECODER_ENGINE=echo" in text


def test_the_starter_is_looked_for_inside_the_package_and_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, beside = tmp_path / "package" / "starter", tmp_path / "starter"
    monkeypatch.setattr(weights, "_STARTERS", (inside, beside))
    with pytest.raises(InvalidRequest, match="DECODER_MODEL is unset"):
        find_model(None)
    for folder in (beside, inside):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert find_model(None) == folder


def test_the_hash_follows_the_weights_and_nothing_else(tmp_path: Path) -> None:
    assert weights_sha256(tmp_path) is None
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = weights_sha256(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert weights_sha256(tmp_path) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert weights_sha256(tmp_path) != first
    file.write_bytes(b"one")
    os.utime(file, ns=(2, 2))
    assert weights_sha256(tmp_path) == first
