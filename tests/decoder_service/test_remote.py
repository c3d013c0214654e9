"""Engine remote: against a real `transformers serve`, and against TGI's published protocol."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.hf import load_engine
from decoder_service.engines.remote import RemoteEngine, load_remote
from decoder_service.settings import DecoderSettings
from shared.errors import (
    Broken,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RoomError,
    Unavailable,
    Unsupported,
)
from shared.ports import free_port
from shared.wire import Program

# Where AutoTokenizer, which takes this model's tokenizer for Qwen2's own, splits words as the files say.
MESSAGES = ["f x sum", "def total(numbers):", "return result", "filter even map square " * 5, "class"]
GREEDY = Decoding(24)
Connect = Callable[..., RemoteEngine]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Somebody else's server on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def rows_for(engine: Any, messages: list[str], seed: int = 7) -> list[Row]:
    return [Row(m, ids, seed) for m, ids in zip(messages, engine.prepare(messages), strict=True)]


@pytest.fixture
def remote() -> Iterator[Connect]:
    """Connect an engine to a URL; it is closed when the test ends."""
    engines: list[RemoteEngine] = []

    def connect(url: str, api: Any = "tgi", **settings: Any) -> RemoteEngine:
        engines.append(
            load_remote(DecoderSettings(engine="remote", remote_url=url, remote_api=api, **settings))
        )
        return engines[-1]

    yield connect
    for engine in engines:
        engine.close()


# --- transformers serve ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_there(build_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends a reply: transformers serve shows stop tokens that are not special."""
    return build_model(tmp_path_factory.mktemp("there"), "qwen2", endless=True)


@pytest.fixture(scope="module")
def serve(model_there: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` on the tiny model, as a process of its own."""
    if importlib.util.find_spec("openai") is None:
        pytest.skip("transformers serve needs the package openai; pip install 'psuedoptimal[dev]'")
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "transformers.cli.transformers", "serve", str(model_there), "--device", "cpu",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 120
        while not _healthy(url):
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _healthy(url: str, path: str = "/health") -> bool:
    try:
        return httpx.get(url + path, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_transformers_serve_gives_the_programs_of_the_model_itself(
    serve: str, model_there: Path, api: str, remote: Connect
) -> None:
    here = load_engine(DecoderSettings(model=str(model_there)))
    there = remote(
        serve, api, model=str(model_there), remote_tokenizer=str(model_there), remote_connections=2
    )
    found = there.decode(rows_for(there, MESSAGES), GREEDY)
    wanted = here.decode(rows_for(here, MESSAGES), GREEDY)
    # transformers serve strips what it answers.
    texts = [each.text.strip() for each in found if isinstance(each, Program)]
    assert texts == [program.text.strip() for program in wanted if program]
    assert len(set(texts)) == len(MESSAGES)
    for each, program in zip(found, wanted, strict=True):
        assert isinstance(each, Program) and program
        assert (each.tokens, each.finish_reason) == (program.tokens, program.finish_reason) == (24, "length")
    assert there.count(MESSAGES) == here.count(MESSAGES)
    assert there.prepare(MESSAGES) == here.prepare(MESSAGES)


@pytest.mark.slow
def test_the_whole_service_in_front_of_transformers_serve(
    serve: str, start: Callable[..., Any], model_there: Path
) -> None:
    service = start(engine="remote", remote_url=serve, model=model_there, remote_connections=2)
    first = service.decode(MESSAGES, max_new_tokens=12)
    assert first.status_code == 200
    again = service.decode(MESSAGES[::-1], max_new_tokens=12).json()
    assert [p["text"] for p in again["programs"]][::-1] == [p["text"] for p in first.json()["programs"]]
    assert again["cached"] == len(MESSAGES)
    card = service.client.get("/v1/model").json()
    assert (card["engine"], card["name"], card["libraries"]["api"]) == ("remote", str(model_there), "chat")
    maps = Path(f"/proc/{service.process.pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text()
    counted = service.client.post("/v1/tokenize", json={"texts": ["a"]})
    assert counted.status_code == 501 and "DECODER_REMOTE_TOKENIZER" in counted.json()["hint"]
    vectors = service.client.post("/v1/latents/embed", json={"texts": ["a"]})
    assert vectors.status_code == 501 and "engine 'remote' takes text only" in vectors.json()["detail"]


@pytest.mark.slow
def test_a_wrong_model_name_is_told_in_the_servers_words(serve: str, remote: Connect) -> None:
    engine = remote(serve, "chat", model="somebody/else")
    found = engine.decode(rows_for(engine, ["f"]), GREEDY)[0]
    assert isinstance(found, InvalidRequest) and "somebody/else" in found.detail


# --- TGI's protocol ----------------------------------------------------------------------------------


@pytest.fixture
def tgi() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("tgi_schema", Path(__file__).parent / "tgi_schema.py")
    assert spec and spec.loader
    schema = sys.modules["tgi_schema"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    app = schema.make_server()
    with served(app) as url:
        app.state.url = url
        yield app


def test_requests_hold_to_tgis_schema_and_answers_are_read(tgi: Any, remote: Connect) -> None:
    engine = remote(tgi.state.url)
    messages = [f"x = {n}" for n in range(40)]
    found = engine.decode(rows_for(engine, messages), GREEDY)
    assert found == [Program(text=m, tokens=7, finish_reason="stop") for m in messages]
    body, headers = tgi.state.seen[0]
    assert body.inputs.startswith("You are a decoder.") and body.inputs.endswith("\n\n# Python\n")
    assert body.parameters.max_new_tokens == 24 and body.parameters.do_sample is False
    assert body.parameters.temperature is None and body.parameters.return_full_text is False
    assert "authorization" not in headers
    cut = engine.decode(rows_for(engine, ["x"]), Decoding(1))[0]
    assert isinstance(cut, Program) and cut.finish_reason == "length"
    card = engine.card()
    assert (card.name, card.revision, card.libraries["server"]) == ("some/model", "abc123", "3.3.6")


def test_a_sampled_row_has_a_seed_of_its_own_that_is_the_same_every_time(tgi: Any, remote: Connect) -> None:
    engine = remote(tgi.state.url)
    for seed in (0, 0, 1):
        engine.decode(rows_for(engine, ["a", "b"], seed=seed), Decoding(5, 0.7, 0.9))
    seeds: dict[str, list[int]] = {"a": [], "b": []}
    for body, _ in tgi.state.seen:
        assert body.parameters.do_sample and body.parameters.temperature == 0.7
        assert body.parameters.top_p == 0.9
        seeds["a" if "# Message\na" in body.inputs else "b"].append(body.parameters.seed)
    assert seeds["a"][0] == seeds["a"][1] != seeds["a"][2]
    assert seeds["a"][0] != seeds["b"][0]


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [("too long", InvalidRequest, "must be <= 1000"), ("busy", Overloaded, "overloaded"),
     ("broken", Broken, "out of memory"), ("moved", Broken, "redirects are not followed")],
)  # fmt: skip
def test_a_row_that_fails_ends_alone_and_with_the_servers_words(
    tgi: Any, message: str, kind: type[RoomError], words: str, remote: Connect
) -> None:
    tgi.state.elsewhere = tgi.state.url + "/info"
    engine = remote(tgi.state.url)
    found = engine.decode(rows_for(engine, ["x = 1", message, "x = 2"]), GREEDY)
    assert isinstance(found[0], Program) and isinstance(found[2], Program)
    assert type(found[1]) is kind and words in str(found[1])


def test_over_http_a_refused_row_is_a_422_and_its_neighbours_are_kept(
    tgi: Any, start: Callable[..., Any]
) -> None:
    service = start(engine="remote", remote_url=tgi.state.url, remote_api="tgi")
    reply = service.decode(["x = 1", "too long"])
    assert reply.status_code == 422 and "must be <= 1000" in reply.json()["detail"]
    assert service.decode(["x = 1"]).json()["cached"] == 1
    assert service.decode(["busy"]).status_code == 429


def test_what_nobody_wants_is_not_sent(tgi: Any, remote: Connect) -> None:
    engine = remote(tgi.state.url, remote_connections=1)
    found = engine.decode(rows_for(engine, ["a", "b", "c"]), GREEDY, lambda row: row != 1)
    assert found[1] is None and isinstance(found[2], Program)
    assert len(tgi.state.seen) == 2


# --- nowhere else -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("api", ["tgi", "chat", "completions"])
def test_only_the_given_url_hears_anything(
    tgi: Any, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    """No proxy of the environment, no redirect, and this machine's own token stays here."""
    heard: list[str] = []
    trap = FastAPI()

    @trap.api_route("/{path:path}", methods=["GET", "POST", "CONNECT"])
    async def hear(path: str, request: Request) -> dict[str, str]:
        heard.append(str(request.url))
        return {}

    @tgi.post("/v1/chat/completions")
    @tgi.post("/v1/completions")
    async def openai(request: Request) -> Any:
        body = await request.json()
        tgi.state.seen.append((body, dict(request.headers)))
        if "moved" in str(body):
            from fastapi.responses import RedirectResponse

            return RedirectResponse(tgi.state.elsewhere, 307)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "text": "x",
            "message": {"role": "assistant", "content": "x"},
        }
        usage = {"completion_tokens": 1, "prompt_tokens": 1, "total_tokens": 2}
        return {"id": "1", "object": "o", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    with served(trap) as elsewhere:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, elsewhere)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", elsewhere)
        monkeypatch.setenv("HF_TOKEN", "hf_secretofthismachine")
        tgi.state.elsewhere = elsewhere + "/generate"
        service = start(engine="remote", remote_url=tgi.state.url, remote_api=api, model="m", wait=False)
        with httpx.Client(base_url=service.url, trust_env=False, timeout=60) as direct:
            while not _healthy(service.url, "/readyz"):
                assert service.process.poll() is None
                time.sleep(0.05)
            fine = direct.post("/v1/decode", json={"messages": ["x"]})
            moved = direct.post("/v1/decode", json={"messages": ["moved"]})
    assert fine.status_code == 200, fine.text
    assert moved.status_code == 500 and "redirects are not followed" in moved.json()["hint"]
    assert not heard
    assert len(tgi.state.seen) >= 3
    assert not [headers for _, headers in tgi.state.seen if "authorization" in headers]
    assert "hf_secret" not in str(tgi.state.seen)


def test_the_servers_token_is_sent_from_its_file(tgi: Any, tmp_path: Path, remote: Connect) -> None:
    file = tmp_path / "token"
    file.write_text("open-sesame\n")
    engine = remote(tgi.state.url, remote_token_file=file)
    engine.decode(rows_for(engine, ["x"]), GREEDY)
    assert tgi.state.seen[0][1]["authorization"] == "Bearer open-sesame"
    file.write_text("two words")
    with pytest.raises(InvalidRequest, match="DECODER_REMOTE_TOKEN_FILE"):
        remote(tgi.state.url, remote_token_file=file)


def test_the_servers_token_of_the_environment_loses_the_blanks_around_it(tgi: Any, remote: Connect) -> None:
    engine = remote(tgi.state.url, remote_token=" open-sesame\n")
    engine.decode(rows_for(engine, ["x"]), GREEDY)
    assert tgi.state.seen[0][1]["authorization"] == "Bearer open-sesame"


@pytest.mark.parametrize("token", ["open\nsesame", "open sesame", "open-sésame", "open-\x7fsesame", " \n"])
def test_a_token_that_no_header_takes_is_refused_and_not_shown(tgi: Any, remote: Connect, token: str) -> None:
    with pytest.raises(InvalidRequest, match="it must hold one token of visible ASCII") as caught:
        remote(tgi.state.url, remote_token=token)
    assert caught.value.field == "DECODER_REMOTE_TOKEN"
    assert "sesame" not in str(caught.value) and "sésame" not in str(caught.value)
    assert not tgi.state.seen


def test_a_token_that_cannot_be_used_ends_the_process_with_two_and_is_not_printed(
    run_to_its_end: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = run_to_its_end(engine="remote", remote_url=url, remote_token="open\nsesame")
    assert ended.returncode == 2
    assert "DECODER_REMOTE_TOKEN: it must hold one token" in ended.stderr.splitlines()[-1]
    assert "sesame" not in ended.stderr


# --- what cannot work --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_is_not_there_ends_the_process_with_the_way_out(
    run_to_its_end: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for api in ("tgi", "chat", "completions"):
        ended = run_to_its_end(engine="remote", remote_url=url, remote_api=api)
        assert ended.returncode == 1
        assert f"{url}: not reachable" in ended.stderr.splitlines()[-1]
        assert "correct DECODER_REMOTE_URL" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, "DECODER_REMOTE_URL is unset"), ({"remote_url": "tgi:80"}, "not the URL of a server"),
     ({"remote_url": "http://user:pass@tgi"}, "without a query or a password")],
)  # fmt: skip
def test_a_wrong_url_is_a_wrong_setting(settings: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        load_remote(DecoderSettings(engine="remote", **settings))  # type: ignore[arg-type]


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, remote: Connect) -> None:
    app = FastAPI()

    @app.post("/v1/completions")
    @app.post("/v1/chat/completions")
    def hang() -> dict[str, str]:
        time.sleep(1.5)
        return {}

    with served(app) as url:
        for api in ("completions", "chat"):
            engine = remote(url, api, remote_timeout_s=0.3, model="m")
            found = engine.decode(rows_for(engine, ["x"]), GREEDY)[0]
            assert isinstance(found, DeadlineExceeded) and "DECODER_REMOTE_TIMEOUT_S" in found.hint


def test_an_answer_that_is_none_is_told_as_such(remote: Connect) -> None:
    app = FastAPI()

    @app.post("/v1/completions")
    @app.post("/v1/chat/completions")
    @app.post("/generate")
    def odd() -> dict[str, str]:
        return {"hello": "world"}

    @app.get("/info")
    def info() -> dict[str, str]:
        return {}

    with served(app) as url:
        for api in ("completions", "chat", "tgi"):
            engine = remote(url, api, model="m")
            found = engine.decode(rows_for(engine, ["x"]), GREEDY)[0]
            assert isinstance(found, Broken) and "DECODER_REMOTE_API" in found.hint, found


def test_counting_needs_the_tokenizer(tgi: Any, remote: Connect) -> None:
    with pytest.raises(Unsupported, match="DECODER_REMOTE_TOKENIZER"):
        remote(tgi.state.url).count(["a"])
    assert Unavailable("x").retryable


def test_a_tokenizer_that_cannot_be_read_is_a_wrong_setting(
    tgi: Any, remote: Connect, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=r"its tokenizer cannot be loaded") as caught:
        remote(tgi.state.url, remote_tokenizer=str(tmp_path))
    assert caught.value.field == "DECODER_REMOTE_TOKENIZER" and str(tmp_path) in str(caught.value)
