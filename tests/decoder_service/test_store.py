"""Programs kept on disk: found again by the decoder that made them and by no other, within the bounds."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decoder_service.cache import ProgramCache, open_cache
from decoder_service.engines.echo import EchoEngine
from decoder_service.engines.engine import Decoding
from decoder_service.keys import Key
from decoder_service.settings import DecoderSettings
from decoder_service.store import ProgramStore, identity
from shared.errors import InvalidRequest
from shared.wire import ModelCard, Program

CARD = EchoEngine().card().model_copy(update={"engine": "hf", "name": "m"})


NINE = Decoding(9)


def key(message: str, *, seed: int = 0, decoding: Decoding = NINE) -> Key:
    return Key(message, decoding, seed)


def program(text: str) -> Program:
    return Program(text=text, tokens=3, finish_reason="stop")


def cache(path: Path, size: int = 100, *, card: ModelCard = CARD, **more: Any) -> ProgramCache:
    return open_cache(DecoderSettings(cache_file=path, cache_size=size, **more), card)


def messages(found: ProgramCache, *asked: str) -> list[str]:
    return [message for message in asked if found.get(key(message))]


def test_what_was_put_is_there_in_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    first = cache(path)
    odd = "line\n\0 \U0001f600 \ud800"
    keys = [key("a"), key("a", seed=1), key("a", decoding=Decoding(9, 0.7, 0.9)), key(odd), key("")]
    for number, each in enumerate(keys):
        first.put(each, program(f"{odd}{number}"))
    first.close()
    second = cache(path)
    for number, each in enumerate(keys):
        wanted = Program(text=f"{odd}{number}", tokens=3, finish_reason="stop", cached=True)
        assert second.get(each) == wanted
    assert len(second) == 5
    second.close()


@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "f" * 64}, {"template_sha256": "0" * 64}, {"quantization": "nf4"}, {"dtype": "x"},
     {"revision": "other"}, {"libraries": {"torch": "0"}}, {"name": "n"}, {"device": "cuda:0"}],
)  # fmt: skip
def test_another_decoder_does_not_find_it(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "cache"
    first = cache(path)
    first.put(key("a"), program("first"))
    first.close()
    other = cache(path, card=CARD.model_copy(update=change))
    assert other.get(key("a")) is None
    other.put(key("a"), program("other"))
    other.close()
    again = cache(path)
    found = again.get(key("a"))
    assert found and found.text == "first"
    again.close()


@pytest.mark.parametrize(("engine", "setting"), [("hf", "model"), ("remote", "remote_tokenizer")])
def test_a_model_with_another_configuration_does_not_find_it(
    tmp_path: Path, model_dir: Path, engine: str, setting: str
) -> None:
    folder, path = shutil.copytree(model_dir, tmp_path / "model"), tmp_path / "cache"
    card = CARD.model_copy(update={"engine": engine})

    def found_again() -> bool:
        opened = cache(path, card=card, **{setting: str(folder)})
        found = opened.get(key("a")) is not None
        opened.put(key("a"), program("first"))
        opened.close()
        return found

    assert not found_again() and found_again()
    generation = folder / "generation_config.json"
    as_it_was = generation.read_text()
    generation.write_text(json.dumps({**json.loads(as_it_was), "eos_token_id": [7]}))
    assert not found_again() and found_again()
    generation.write_text(as_it_was)
    assert found_again()
    (folder / "README.md").write_text("a card")
    assert found_again()
    for name in (
        "chat_template.jinja",
        "merges.txt",
        "tokenizer.model",
        "config.json",
        "tokenizer_config.json",
    ):
        with (folder / name).open("a") as file:
            file.write("\n")
        assert not found_again() and found_again(), name


def test_another_server_under_the_same_name_does_not_find_it() -> None:
    assert identity(CARD, "http://a:80", None) != identity(CARD, "http://b:80", None)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    first = cache(path, 3)
    for message in "abc":
        first.put(key(message), program(message))
    first.flush()
    assert first.get(key("a"))
    first.flush()
    first.put(key("d"), program("d"))
    first.close()
    second = cache(path, 3)
    assert messages(second, *"abcd") == ["a", "c", "d"]
    second.close()


def test_the_file_is_bounded_in_rows_and_bytes_over_all_decoders(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    for name in ("one", "two"):
        store = ProgramStore(path, identity(CARD, name, None), rows=10, max_bytes=2000)
        for number in range(8):
            store.note(key(f"{number}"), program("x" * 99))
        store.close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM programs").fetchone()[0] == 10
    database.close()
    store = ProgramStore(path, identity(CARD, "two", None), rows=10, max_bytes=350)
    store.note(key("new"), program("x" * 97))
    store.close()
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT message FROM programs ORDER BY used").fetchall()
    database.close()
    assert [row[0] for row in rows] == [b"6", b"7", b"new"]


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_text("this is not a database, it is a text of some length " * 30)
    with pytest.raises(InvalidRequest, match=r"DECODER_CACHE_FILE=.*delete a broken one"):
        cache(path)
    assert path.read_text().startswith("this is not")
    with pytest.raises(InvalidRequest, match="DECODER_CACHE_FILE"):
        cache(tmp_path / "cache" / "below-a-file")


def damage(path: Path, how: str) -> None:
    """Make one decoder's programs unreadable; what is at the file's start stays."""
    with sqlite3.connect(path) as database:
        if how == "row":
            database.execute("UPDATE programs SET finish_reason = 'never'")
        elif how == "text":
            database.execute("UPDATE programs SET text = x'ff'")
    database.close()
    if how == "page":
        content = path.read_bytes()
        path.write_bytes(content[:8192] + b"\xff" * (len(content) - 12288) + content[-4096:])


@pytest.mark.parametrize("how", ["page", "row", "text"])
def test_a_file_that_is_damaged_further_in_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "cache"
    first = cache(path)
    for number in range(300):
        first.put(key(f"{number}" * 50), program("x" * 400))
    first.close()
    damage(path, how)
    with pytest.raises(InvalidRequest, match=r"DECODER_CACHE_FILE=.*delete a broken one") as caught:
        cache(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_damaged_file_ends_the_process_with_two_and_one_line(
    start: Callable[..., Any], run_to_its_end: Callable[..., Any], model_dir: Path, tmp_path: Path
) -> None:
    settings = {"model": model_dir, "cache_file": tmp_path / "cache"}
    first = start(**settings)
    assert first.decode(["keep"], max_new_tokens=4).status_code == 200
    first.process.terminate()
    assert first.process.wait(60) == 0
    damage(tmp_path / "cache", "row")
    ended = run_to_its_end(**settings)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "DECODER_CACHE_FILE=" in ended.stderr.splitlines()[-1]


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(InvalidRequest, match=r"another version \(99\)"):
        cache(path)


def test_a_disk_that_fails_later_ends_the_keeping_and_not_the_service(tmp_path: Path) -> None:
    found = cache(tmp_path / "cache")
    with sqlite3.connect(tmp_path / "cache") as database:
        database.execute("DROP TABLE programs")
    database.close()
    found.put(key("a"), program("a"))
    found.flush()
    found.put(key("b"), program("b"))
    found.flush()
    assert messages(found, "a", "b") == ["a", "b"]
    found.close()


@pytest.mark.slow
def test_a_file_that_another_process_holds_makes_nobody_wait_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.sqlite"
    first = cache(path)
    first.put(key("a"), program("x"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = threading.Thread(target=first.flush)
    writer.start()
    time.sleep(0.5)
    before = time.monotonic()
    first.put(key("b"), program("y"))
    assert first.get(key("a")) and first.get(key("b"))
    assert time.monotonic() - before < 2 and writer.is_alive()
    writer.join(30)
    other.execute("COMMIT")
    other.close()
    first.close()
    second = cache(path)
    assert messages(second, "a", "b") == ["a", "b"] and "not kept" not in caplog.text
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    second.put(key("c"), program("z"))
    second.close()
    assert "programs are not kept on disk" in caplog.text
    other.close()


def test_the_service_answers_from_the_file_after_a_restart(
    start: Callable[..., Any], model_dir: Path, tmp_path: Path
) -> None:
    settings = {"model": model_dir, "cache_file": tmp_path / "cache"}
    first = start(**settings)
    asked = [f"keep {n}" for n in range(5)]
    before = first.decode(asked, max_new_tokens=12).json()
    sampled = first.decode(asked, max_new_tokens=12, temperature=1.0, seed=3).json()
    first.process.terminate()
    assert first.process.wait(60) == 0
    second = start(**settings)
    after = second.decode(asked, max_new_tokens=12).json()
    assert after["cached"] == 5
    assert [p["text"] for p in after["programs"]] == [p["text"] for p in before["programs"]]
    again = second.decode(asked, max_new_tokens=12, temperature=1.0, seed=3).json()
    assert [p["text"] for p in again["programs"]] == [p["text"] for p in sampled["programs"]]
    assert second.metric("decoder_generated_total") == 0
    other = start(**settings, dtype="bfloat16")
    assert other.decode(asked, max_new_tokens=12).json()["cached"] == 0
    ends_early = shutil.copytree(model_dir, tmp_path / model_dir.name)
    generation = ends_early / "generation_config.json"
    every = {"eos_token_id": list(range(400))}
    generation.write_text(json.dumps({**json.loads(generation.read_text()), **every}))
    ended = start(**{**settings, "model": ends_early}).decode(asked, max_new_tokens=12).json()
    assert [(p["text"], p["cached"]) for p in ended["programs"]] == [("", False)] * 5
