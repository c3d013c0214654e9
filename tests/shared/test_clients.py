"""The clients against real servers: killed, hung, slow, refusing and lying ones."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared.batches import MAX_REQUEST_CHARACTERS, split
from shared.clients import DecoderClient, SandboxClient, run, tagged
from shared.errors import (
    Broken,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RequestRefused,
    RoomError,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from shared.wire import MAX_BATCH, MAX_TEXT, InputOutput, JudgeJob

Live = Callable[[FastAPI], str]


def reply(*texts: str) -> tuple[int, dict[str, str], bytes]:
    """A right answer of a decoder, by hand."""
    programs = [{"text": text, "tokens": 1, "finish_reason": "stop"} for text in texts]
    return 200, {}, json.dumps({"programs": programs, "model": "peer"}).encode()


def problem(status: int, code: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A problem+json answer, by hand."""
    body = {
        "title": code,
        "status": status,
        "detail": "what",
        "code": code,
        "hint": "way out",
        "field": "here",
    }
    return status, headers, json.dumps(body).encode()


def timed(coro: Any) -> tuple[Any, float]:
    """Run; return what came back or was raised, and the seconds it took."""
    started = time.monotonic()
    try:
        result = run(coro)
    except RoomError as error:
        result = error
    return result, time.monotonic() - started


def texts(programs: Any) -> list[str]:
    if isinstance(programs, Exception):
        raise programs
    return [program.text for program in programs]


# --- answers -----------------------------------------------------------------------------------------


def test_a_batch_of_any_size_comes_back_in_order(live: Live, echo: ModuleType) -> None:
    client = DecoderClient(live(echo.make_app()))
    messages = [f"m{number}" for number in range(2 * MAX_BATCH + 7)]
    assert texts(run(client.decode(messages))) == messages
    assert client.requests == 3
    assert client.retries == 0


def test_what_scripts_read_and_print_counts_for_a_batch(live: Live, echo: ModuleType) -> None:
    client = SandboxClient(live(echo.make_app(echo.EchoSettings(max_body_mb=10))))
    long = "x" * 4_000_000
    tests = [InputOutput(stdin=long, stdout="1"), InputOutput(stdin="1", stdout=long)]
    jobs = [JudgeJob(program=str(number), io=[tests[number % 2]]) for number in range(4)]
    verdicts = run(client.judge(jobs))
    assert [verdict.stdout_tail for verdict in verdicts] == ["0", "1", "2", "3"]
    assert client.requests == 4


def test_an_empty_batch_costs_no_request() -> None:
    client = DecoderClient("http://127.0.0.1:9")
    assert run(client.decode([])) == []
    assert client.requests == 0


def test_parts_keep_order_and_every_bound() -> None:
    sizes = [1, 3_000_000, 3_000_000, 3_000_000, 9_000_000, 5] + [10] * 2500
    for instances in (1, 2, 5):
        parts = split(sizes, lambda size: size, instances)
        assert [size for part in parts for size in part] == sizes
        assert all(len(part) <= MAX_BATCH for part in parts)
        assert all(sum(part) <= MAX_REQUEST_CHARACTERS or len(part) == 1 for part in parts)
    assert [len(part) for part in split([1] * 64, lambda size: size, 4)] == [16] * 4
    assert [len(part) for part in split([1] * 31, lambda size: size, 4)] == [31]


def test_a_client_serves_two_event_loops_at_once(live: Live, echo: ModuleType) -> None:
    client = DecoderClient(live(echo.make_app()))
    found: list[list[str]] = []

    def many() -> None:
        async def three() -> None:
            for _ in range(3):
                found.append(texts(await client.decode(["a", "b"], seed=20)))

        run(three())

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["a", "b"]] * 12
    assert all(peer.in_flight == 0 for peer in client._transport.peers)


def test_a_proxy_variable_is_not_obeyed(
    live: Live, echo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert texts(run(DecoderClient(live(echo.make_app()), deadline_s=5).decode(["a"]))) == ["a"]


# --- refusals ----------------------------------------------------------------------------------------


def test_a_refused_request_is_never_repeated(live: Live, echo: ModuleType) -> None:
    client = SandboxClient(live(echo.make_app()))
    with pytest.raises(InvalidRequest, match="cannot be split") as caught:
        run(client.judge([JudgeJob(program="a", tests=["b"])]))
    assert caught.value.hint == "rewrite it as an assert"
    assert caught.value.field == "jobs.0"
    assert client.requests == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "unauthorized", Unauthorized), (501, "unsupported", Unsupported), (400, "", RequestRefused)],
)
def test_no_refusal_is_repeated(
    misbehaving: Callable[..., Any], status: int, code: str, kind: type[Exception]
) -> None:
    client = DecoderClient(misbehaving(problem(status, code), reply("a")).url)
    with pytest.raises(kind, match="what"):
        run(client.decode(["a"]))
    assert client.requests == 1


def test_a_wrong_token_is_told_as_such(live: Live, echo: ModuleType) -> None:
    url = live(echo.make_app(echo.EchoSettings(token="right")))
    assert texts(run(DecoderClient(url, token="right").decode(["a"]))) == ["a"]
    for token in (None, "wrong"):
        with pytest.raises(Unauthorized, match="bearer token"):
            run(DecoderClient(url, token=token).decode(["a"]))


def test_what_the_wire_refuses_is_refused_before_it_is_sent() -> None:
    client = DecoderClient("http://127.0.0.1:9")
    with pytest.raises(InvalidRequest, match="messages"):
        run(client.decode(["x" * (MAX_TEXT + 1)]))
    with pytest.raises(InvalidRequest, match="temperature"):
        run(client.decode(["x"], temperature=-1))
    assert client.requests == 0


def test_a_url_that_is_none_is_refused_with_an_example() -> None:
    for url in ("localhost:8001", "ftp://host", "", "http://"):
        with pytest.raises(ValueError, match="http://127"):
            DecoderClient(url)


def test_a_token_with_its_line_end_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="strip blanks"):
        DecoderClient("http://127.0.0.1:9", token="abc\n")


# --- no answer: retried ------------------------------------------------------------------------------


def test_retry_after_is_honoured(misbehaving: Callable[..., Any]) -> None:
    peer = misbehaving(problem(429, "overloaded", **{"Retry-After": "1"}), reply("a"))
    client = DecoderClient(peer.url, deadline_s=10)
    found, seconds = timed(client.decode(["a"]))
    assert texts(found) == ["a"]
    assert 1.0 <= seconds < 2.5
    assert client.retries == 1


def test_retry_after_may_be_a_date(misbehaving: Callable[..., Any]) -> None:
    soon = formatdate(time.time() + 2, usegmt=True)
    peer = misbehaving(problem(503, "unavailable", **{"Retry-After": soon}), reply("a"))
    found, seconds = timed(DecoderClient(peer.url, deadline_s=10).decode(["a"]))
    assert texts(found) == ["a"]
    assert 0.9 <= seconds < 3.5


def test_a_wait_beyond_the_deadline_is_not_begun(misbehaving: Callable[..., Any]) -> None:
    peer = misbehaving(problem(429, "overloaded", **{"Retry-After": "60"}))
    found, seconds = timed(DecoderClient(peer.url, deadline_s=5).decode(["a"]))
    assert isinstance(found, Overloaded)
    assert found.retry_after_s == 60
    assert found.hint == "way out"
    assert seconds < 1


@pytest.mark.parametrize("act", ["hang", "drip"])
def test_the_deadline_holds_against_a_peer_that_never_finishes(
    misbehaving: Callable[..., Any], act: str
) -> None:
    found, seconds = timed(DecoderClient(misbehaving(act).url, deadline_s=1).decode(["a"]))
    assert isinstance(found, DeadlineExceeded)
    assert 0.9 <= seconds < 1.6


def test_the_deadline_holds_against_a_peer_that_always_fails(misbehaving: Callable[..., Any]) -> None:
    client = DecoderClient(misbehaving(problem(500, "broken")).url, deadline_s=1.5)
    found, seconds = timed(client.decode(["a"]))
    assert isinstance(found, Broken)
    assert seconds < 1.8
    assert 2 <= client.requests <= 8, "exponential back-off, not a storm"


def test_a_peer_that_says_at_once_is_not_stormed(misbehaving: Callable[..., Any]) -> None:
    peer = misbehaving(problem(503, "unavailable", **{"Retry-After": "0"}))
    client = DecoderClient(peer.url, deadline_s=1.5)
    assert isinstance(timed(client.decode(["a"]))[0], Unavailable)
    assert 2 <= client.requests <= 8


def test_a_hung_attempt_is_given_up_and_made_again(misbehaving: Callable[..., Any]) -> None:
    client = DecoderClient(misbehaving("hang", reply("a")).url, deadline_s=10, attempt_s=0.5)
    found, seconds = timed(client.decode(["a"]))
    assert texts(found) == ["a"]
    assert seconds < 3


@pytest.mark.parametrize(
    ("lie", "kind", "words"),
    [
        (reply("a"), Broken, "1 answers for 2"),
        (reply("a", "b", "c"), Broken, "3 answers for 2"),
        ((200, {}, b"<html>"), Broken, "not a DecodeReply"),
        ((200, {}, b'{"programs": [{"text": 1}]}'), Broken, "not a DecodeReply"),
        ((200, {"Content-Encoding": "gzip"}, b"no gzip"), Broken, "unreadable"),
        ((502, {}, b"<html>bad gateway\x1b"), Unavailable, "bad gateway"),
        ("drop", Unavailable, "connection was lost"),
    ],
)
def test_a_malformed_answer_is_no_answer(
    misbehaving: Callable[..., Any], lie: Any, kind: type[Exception], words: str
) -> None:
    client = DecoderClient(misbehaving(lie).url, deadline_s=0.8)
    with pytest.raises(kind, match=words):
        run(client.decode(["a", "b"]))
    assert client.retries >= 1
    healed = DecoderClient(misbehaving(lie, lie, reply("a", "b")).url, deadline_s=5)
    assert texts(run(healed.decode(["a", "b"]))) == ["a", "b"]
    assert healed.retries == 2


def test_nobody_there_is_unavailable_and_says_how_to_start_it(free_port: int) -> None:
    with pytest.raises(Unavailable, match=r"not reachable.*psuedoptimal serve decoder"):
        run(DecoderClient(f"http://127.0.0.1:{free_port}", deadline_s=0.5).decode(["a"]))


def test_a_last_try_that_the_deadline_cuts_short_does_not_hide_what_was_wrong(
    misbehaving: Callable[..., Any],
) -> None:
    peer = misbehaving(problem(503, "unavailable"), "hang")
    with pytest.raises(Unavailable, match=r"what.*way out"):
        run(DecoderClient(peer.url, deadline_s=1).decode(["a"]))
    assert peer.seen.qsize() == 2


def test_who_waits_long_is_told_for_whom_and_how_much_longer(
    free_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The fourth try comes after 0.35 to 0.7 s, and is not the last one.
    monkeypatch.setattr("shared.transport.TELL_S", 0.2)
    with pytest.raises(Unavailable):
        run(DecoderClient(f"http://127.0.0.1:{free_port}", deadline_s=3).decode(["a"]))
    told = [record.getMessage() for record in caplog.records if record.name == "shared.transport"]
    assert 1 <= len(told) <= 4
    for line in told:
        assert re.search(rf"again for up to [0-3] s more: .*{free_port}: not reachable.*serve decoder", line)


def test_where_nobody_is_is_asked_for_less_time_than_where_somebody_is_busy(
    misbehaving: Callable[..., Any], free_port: int
) -> None:
    nobody = DecoderClient(f"http://127.0.0.1:{free_port}", deadline_s=30, unreachable_s=0.5)
    found, seconds = timed(nobody.decode(["a"]))
    assert isinstance(found, Unavailable) and seconds < 5
    busy = [problem(503, "unavailable")] * 4
    client = DecoderClient(misbehaving(*busy, reply("a")).url, deadline_s=30, unreachable_s=0.01)
    assert texts(run(client.decode(["a"]))) == ["a"] and client.retries == 4


@pytest.mark.slow
def test_a_server_killed_and_restarted_within_the_deadline_answers(
    start: Callable[..., Any], free_port: int
) -> None:
    process = start(free_port).wait_ready()
    client = DecoderClient(process.url, deadline_s=60)
    found: list[str] = []
    caller = threading.Thread(target=lambda: found.extend(texts(run(client.decode(["a"], seed=1500)))))
    caller.start()
    time.sleep(0.5)
    process.kill()
    time.sleep(0.5)
    assert not found
    start(free_port)
    caller.join(60)
    assert found == ["a"]
    assert client.retries >= 1


# --- several instances -------------------------------------------------------------------------------


def test_work_goes_where_the_least_is_in_flight(live: Live, echo: ModuleType) -> None:
    apps = [echo.make_app(), echo.make_app()]
    client = DecoderClient([live(app) for app in apps])

    async def eight() -> None:
        await asyncio.gather(*(client.decode(["a"], seed=300) for _ in range(8)))

    run(eight())
    assert [app.state.answered for app in apps] == [4, 4]


def test_requests_one_by_one_go_to_the_instances_in_turns(live: Live, echo: ModuleType) -> None:
    apps = [echo.make_app() for _ in range(3)]
    client = DecoderClient([live(app) for app in apps])

    async def nine() -> None:
        for _ in range(9):
            await client.decode(["a"])

    run(nine())
    assert [app.state.answered for app in apps] == [3, 3, 3]


def test_a_dead_instance_is_avoided_and_costs_no_waiting(
    live: Live, echo: ModuleType, free_port: int
) -> None:
    client = DecoderClient([f"http://127.0.0.1:{free_port}", live(echo.make_app())])

    async def twenty() -> float:
        started = time.monotonic()
        for _ in range(20):
            assert texts(await client.decode(["a"])) == ["a"]
        return time.monotonic() - started

    assert run(twenty()) < 2
    assert client.retries <= 1


def test_one_batch_is_shared_by_the_instances(live: Live, echo: ModuleType) -> None:
    apps = [echo.make_app(), echo.make_app()]
    client = DecoderClient([live(app) for app in apps])
    messages = [str(number) for number in range(64)]
    assert texts(run(client.decode(messages, seed=100))) == messages
    assert [app.state.answered for app in apps] == [1, 1]


def test_a_refused_part_stops_its_neighbours(
    live: Live, echo: ModuleType, misbehaving: Callable[..., Any]
) -> None:
    app = echo.make_app()
    client = DecoderClient([live(app), misbehaving(problem(422, "invalid-request")).url])
    with pytest.raises(InvalidRequest):
        run(client.decode(["a"] * 32, seed=5000))
    end = time.monotonic() + 3
    while not app.state.cancelled and time.monotonic() < end:
        time.sleep(0.02)
    assert app.state.cancelled == 1


# --- life time ---------------------------------------------------------------------------------------


def test_cancelling_a_call_cancels_the_work_in_the_service(live: Live, echo: ModuleType) -> None:
    app = echo.make_app()
    client = DecoderClient(live(app))

    async def impatient() -> None:
        call = asyncio.ensure_future(client.decode(["a"], seed=20_000))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        for _ in range(100):
            if app.state.cancelled:
                break
            await asyncio.sleep(0.02)

    run(impatient())
    assert app.state.cancelled == 1
    assert client._transport.peers[0].in_flight == 0


def test_ready_tells_and_wait_ready_waits(live: Live, echo: ModuleType, free_port: int) -> None:
    app = echo.make_app()
    url = live(app)
    client = DecoderClient(url)
    assert run(client.ready())
    app.state.reason = "loading"
    assert not run(client.ready())
    with pytest.raises(Unavailable, match=r"not ready after 0\.3 s"):
        run(client.wait_ready(0.3))
    threading.Timer(0.5, lambda: setattr(app.state, "reason", None)).start()
    run(client.wait_ready(10))
    assert not run(DecoderClient(f"http://127.0.0.1:{free_port}").ready())


def test_run_step_and_one_request_id_go_along_with_every_attempt(misbehaving: Callable[..., Any]) -> None:
    peer = misbehaving(problem(503, "unavailable"), reply("a"))
    with tagged(run="r\u00e91", step=7):
        run(DecoderClient(peer.url, token="t").decode(["a"]))
    first, second = (peer.seen.get()[2] for _ in range(2))
    assert first["x-request-id"] == second["x-request-id"]
    assert (first["x-run"], first["x-step"], first["authorization"]) == ("r_1", "7", "Bearer t")


def test_async_with_closes_the_connections(live: Live, echo: ModuleType) -> None:
    url = live(echo.make_app())

    async def once() -> httpx.AsyncClient:
        async with DecoderClient(url) as client:
            await client.decode(["a"])
            return client._transport._client()

    assert asyncio.run(once()).is_closed
