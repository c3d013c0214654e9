"""Finding the model, and naming its weights."""

from __future__ import annotations

import json
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


def test_a_large_files_hash_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_LARGE_BYTES", 3)
    read: list[Path] = []
    original = weights._file_sha256
    monkeypatch.setattr(weights, "_file_sha256", lambda file: (read.append(file), original(file))[1])
    file, small, state = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "s" / "w.json"
    file.write_bytes(b"large")
    small.write_bytes(b"s")
    first = weights_sha256(tmp_path, state)
    assert read == [file, small] and first == weights_sha256(tmp_path)
    read.clear()
    assert weights_sha256(tmp_path, state) == first
    assert read == [small]
    before = file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    read.clear()
    second = weights_sha256(tmp_path, state)
    assert second != first and second == weights_sha256(tmp_path)
    assert len(json.loads(state.read_text())) == 1, "the old version of a file is forgotten"
    for broken in ("{", "[]", json.dumps({"x": 3}), json.dumps({"x": "no hash"})):
        state.write_text(broken)
        assert weights_sha256(tmp_path, state) == second


def test_a_state_folder_that_cannot_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_LARGE_BYTES", 3)
    (tmp_path / "model.safetensors").write_bytes(b"large")
    (tmp_path / "file").touch()
    assert weights_sha256(tmp_path, tmp_path / "file" / "w.json") == weights_sha256(tmp_path)
