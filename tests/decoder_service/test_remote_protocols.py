"""What servers answer that is no program, or never comes to an end."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from decoder_service.engines.engine import Decoding, Row
from decoder_service.engines.remote import load_remote
from decoder_service.settings import DecoderSettings
from shared.errors import DeadlineExceeded, InvalidRequest, RoomError, Unavailable
from shared.wire import Program

GREEDY = Decoding(24)
Answer = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server that knows a model `m`; `answer` is given each POST, from before its status line."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            write(self, {"data": [{"id": "m"}]})

        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers["Content-Length"])))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write(to: http.server.BaseHTTPRequestHandler, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    to.send_response(200)
    to.send_header("Content-Length", str(len(body)))
    to.end_headers()
    to.wfile.write(body)


def generated(reason: str | None) -> dict[str, Any]:
    """What TGI and both of OpenAI's routes answer, in one."""
    text = "x = 1"
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": reason, "text": text, "message": message}
    usage = {"completion_tokens": 3, "prompt_tokens": 1, "total_tokens": 4}
    details = {"finish_reason": reason, "generated_tokens": 3, "prefill": [], "tokens": []}
    openai = {"id": "1", "object": "o", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return {**openai, "generated_text": text, "details": details}


def decoded(url: str, api: Any, messages: list[str], **settings: Any) -> list[Program | RoomError | None]:
    asked = DecoderSettings(engine="remote", remote_url=url, remote_api=api, model="m", **settings)
    engine = load_remote(asked)
    try:
        return engine.decode([Row(message, (1,), 0) for message in messages], GREEDY)
    finally:
        engine.close()


# --- how a generation ended --------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["tgi", "chat", "completions"])
@pytest.mark.parametrize(
    ("reason", "wanted"),
    [("stop", "stop"), ("eos", "stop"), ("eos_token", "stop"), ("stop_sequence", "stop"), (None, "stop"),
     ("length", "length"), ("abort", Unavailable), ("error", Unavailable), ("cancelled", Unavailable),
     ("", Unavailable), ("new", Unavailable), ("content_filter", InvalidRequest),
     ("tool_calls", InvalidRequest), ("function_call", InvalidRequest)],
)  # fmt: skip
def test_only_a_generation_that_came_to_an_end_is_a_program(
    api: str, reason: str | None, wanted: Any
) -> None:
    with serving(lambda to, _: write(to, generated(reason))) as url:
        found = decoded(url, api, ["m"])[0]
    if isinstance(wanted, str):
        assert found == Program(text="x = 1", tokens=3, finish_reason=wanted)
    else:
        assert type(found) is wanted and f"{reason!r}" in found.detail


def test_an_aborted_generation_is_an_outage_and_not_kept(start: Callable[..., Any]) -> None:
    reasons = ["stop", "abort", "abort", "stop"]

    def answer(to: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
        write(to, generated(reasons.pop(0)))

    with serving(answer) as url:
        service = start(engine="remote", remote_url=url, model="m")
        aborted = service.decode(["f"])
        again = service.decode(["f"])
    assert aborted.status_code == 503 and "abort" in aborted.json()["detail"]
    assert again.status_code == 200 and again.json()["cached"] == 0


# --- what does not come to an end --------------------------------------------------------------------

DROPS = {
    "blanks": (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", b" "),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Wait: more\r\n"),
    "processing": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
}


@pytest.mark.parametrize("api", ["tgi", "chat", "completions"])
@pytest.mark.parametrize("drops", DROPS)
def test_a_server_that_answers_drop_by_drop_is_given_up(api: str, drops: str) -> None:
    let_go = threading.Event()

    def answer(to: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        if b"slow" not in body:
            return write(to, generated("stop"))
        first, drop = DROPS[drops]
        try:
            to.wfile.write(first)
            while True:
                to.wfile.write(drop)
                time.sleep(0.1)
        except OSError:
            let_go.set()

    with serving(answer) as url:
        start = time.monotonic()
        found = decoded(url, api, ["a", "slow", "b"], remote_timeout_s=1.5, remote_connections=2)
        took_s = time.monotonic() - start
        assert let_go.wait(5)
    assert 1.5 <= took_s < 5
    assert isinstance(found[0], Program) and isinstance(found[2], Program)
    assert isinstance(found[1], DeadlineExceeded) and "DECODER_REMOTE_TIMEOUT_S" in found[1].hint


def test_what_is_under_way_ends_with_the_engine() -> None:
    asked, end = threading.Event(), threading.Event()

    def answer(to: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        asked.set()
        end.wait(30)

    found: list[RoomError] = []
    with serving(answer) as url:
        engine = load_remote(DecoderSettings(engine="remote", remote_url=url, model="m"))

        def decode() -> None:
            with pytest.raises(Unavailable) as caught:
                engine.decode([Row("m", (1,), 0)], GREEDY)
            found.append(caught.value)

        thread = threading.Thread(target=decode)
        thread.start()
        assert asked.wait(10)
        engine.close()
        thread.join(5)
        end.set()
    assert "the service stopped" in str(found[0])


# --- the tokenizer -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tokenizer_is_fetched_from_the_hub_which_redirects(
    hub: str, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with serving(lambda to, _: write(to, generated("stop"))) as url:
        service = start(engine="remote", remote_url=url, model="m", remote_tokenizer="some/model")
        assert service.client.post("/v1/tokenize", json={"texts": ["def total"]}).json()["tokens"][0] > 0
