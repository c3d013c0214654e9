"""What every service gives: problems, token, ids, limits, probes, metrics, docs. Over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared.wire import Problem

MB = 1024 * 1024


@pytest.fixture(scope="module")
def app(echo: ModuleType) -> FastAPI:
    made: FastAPI = echo.make_app(echo.EchoSettings(max_body_mb=1))
    return made


@pytest.fixture(scope="module")
def http(app: FastAPI, live_module: Callable[[FastAPI], str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live_module(app), trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def guarded(echo: ModuleType, live_module: Callable[[FastAPI], str]) -> Iterator[httpx.Client]:
    url = live_module(echo.make_app(echo.EchoSettings(token="s3cret-token")))
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def problem_of(reply: httpx.Response) -> Problem:
    assert reply.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate(reply.json())
    assert found.status == reply.status_code
    assert found.request_id == reply.headers["x-request-id"]
    assert found.title and found.detail and found.code
    assert found.type.endswith(found.code)
    return found


# --- problems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "hint"),
    [
        ("GET", "/nope", 404, "/docs lists every route"),
        ("POST", "/v1/decod", 404, "did you mean /v1/decode?"),
        ("GET", "/v1/decode", 405, "use POST"),
        ("DELETE", "/healthz", 405, "use GET"),
        ("GET", "/docs/assets/nope.js", 404, "/docs lists every route"),
        ("GET", "/raise/not-found", 404, "do not ask"),
        ("GET", "/raise/too-large", 413, "do not ask"),
        ("GET", "/raise/unsupported", 501, "do not ask"),
        ("GET", "/raise/overloaded", 429, "do not ask"),
        ("GET", "/raise/broken", 500, "do not ask"),
        ("GET", "/bug", 500, "request_id in the service's log"),
    ],
)
def test_every_error_is_a_problem_with_a_way_out(
    http: httpx.Client, method: str, path: str, status: int, hint: str
) -> None:
    reply = http.request(method, path)
    assert reply.status_code == status
    assert hint in problem_of(reply).hint


def test_a_bug_shows_nothing_of_the_inside(http: httpx.Client) -> None:
    text = http.get("/bug").text
    assert problem_of(http.get("/bug")).code == "broken"
    for word in ("secret", "Traceback", "ZeroDivision", ".py"):
        assert word not in text


def test_a_bug_after_the_first_byte_breaks_the_connection(http: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/late-bug")


def test_405_names_the_allowed_methods(http: httpx.Client) -> None:
    assert http.get("/v1/decode").headers["allow"] == "POST"


def test_a_full_queue_says_when_to_come_back(http: httpx.Client) -> None:
    reply = http.get("/v1/capabilities")
    assert problem_of(reply).code == "overloaded"
    assert reply.headers["retry-after"] == "1", "whole seconds, rounded up"


def test_an_unknown_field_is_refused_with_the_nearest_name(http: httpx.Client) -> None:
    found = problem_of(http.post("/v1/decode", json={"messages": ["a"], "temprature": 1}))
    assert (found.status, found.field) == (422, "temprature")
    assert "did you mean 'temperature'?" in found.hint
    nested = {"jobs": [{"program": "", "tests": ["a"], "limits": {"memory": 5}}]}
    found = problem_of(http.post("/v1/judge", json=nested))
    assert found.field == "jobs.0.limits.memory"
    assert "'memory_mb'" in found.hint


def test_no_field_can_carry_a_task_to_the_decoder(http: httpx.Client) -> None:
    found = problem_of(http.post("/v1/decode", json={"messages": ["a"], "task": "sum a list"}))
    assert (found.status, found.field) == (422, "task")


def test_each_wrong_field_is_named_with_its_value(http: httpx.Client) -> None:
    body = {"messages": ["a"], "temperature": 99, "top_p": "x" * 5000, "max_new_tokens": None}
    found = problem_of(http.post("/v1/decode", json=body))
    assert {entry["field"] for entry in found.errors} == {"temperature", "top_p", "max_new_tokens"}
    assert found.detail.startswith("max_new_tokens=None: ") and found.detail.endswith("(and 2 more)")
    assert [entry["value"] for entry in found.errors][1] == "99"
    assert all(len(entry["value"]) <= 101 for entry in found.errors)
    missing = problem_of(http.post("/v1/decode", json={}))
    assert (missing.field, missing.hint) == ("messages", "add the field")


def test_thousands_of_wrong_items_make_a_short_answer(http: httpx.Client) -> None:
    reply = http.post("/v1/decode", json={"messages": [1] * 1000})
    assert problem_of(reply).status == 422
    assert len(reply.content) < 10_000


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"null", b"[]"])
def test_no_body_can_break_the_service(http: httpx.Client, body: bytes) -> None:
    reply = http.post("/v1/decode", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert problem_of(reply).hint


def test_a_body_that_is_not_said_to_be_json_is_refused(http: httpx.Client) -> None:
    reply = http.post("/v1/decode", content=b'{"messages": ["a"]}', headers={"Content-Type": "text/plain"})
    assert "Content-Type: application/json" in problem_of(reply).hint


@pytest.mark.parametrize(
    "junk", [b"junk\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000, b"\x16\x03\x01\x02\r\n"]
)
def test_what_is_no_http_is_answered_with_a_problem(http: httpx.Client, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", http.base_url.port or 0), timeout=10) as raw:
        raw.sendall(junk)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in head
    assert Problem.model_validate_json(body).status == 400


def test_control_characters_of_a_request_come_back_escaped(http: httpx.Client) -> None:
    body = {"messages": ["a"], "\x1b[31mred\n": 1}
    found = problem_of(http.post("/v1/decode", json=body))
    assert "\x1b" not in found.detail + found.field
    assert "\x1b" not in problem_of(http.get("/%1b[31m")).detail


# --- body limit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/decode", "/raw"])
def test_a_body_over_the_limit_is_refused_by_its_length(http: httpx.Client, path: str) -> None:
    reply = http.post(path, content=b" " * (MB + 1), headers={"Content-Type": "application/json"})
    found = problem_of(reply)
    assert (found.status, found.code) == (413, "too-large")
    assert "ECHO_MAX_BODY_MB=1" in found.hint


@pytest.mark.parametrize("path", ["/v1/decode", "/raw"])
def test_a_chunked_body_over_the_limit_is_refused_too(http: httpx.Client, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (MB // 8)

    reply = http.post(path, content=chunks(), headers={"Content-Type": "application/json"})
    assert problem_of(reply).status == 413
    assert http.post("/raw", content=b" " * MB).json() == MB, "the limit itself is allowed"


# --- token and host ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/metrics", "/v1/model", "/nope", "/raise/broken"])
@pytest.mark.parametrize(
    "header",
    [
        None, "Bearer", "Bearer wrong", "Bearer s3cret-toke", "Bearer s3cret-token2", "Bearer caf\u00e9",
        "s3cret-token", "Basic s3cret-token",
    ],
)  # fmt: skip
def test_without_the_token_there_is_nothing(guarded: httpx.Client, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("utf-8")}
    reply = guarded.get(path, headers=headers)  # type: ignore[arg-type]
    assert problem_of(reply).code == "unauthorized"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "s3cret" not in reply.text


def test_with_the_token_all_is_open(guarded: httpx.Client) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} s3cret-token"}
        assert guarded.get("/v1/model", headers=headers).status_code == 200
        assert guarded.get("/metrics", headers=headers).status_code == 200


def test_probes_and_the_description_need_no_token(guarded: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/docs/assets/swagger/swagger-ui.css"):
        assert guarded.get(path).status_code == 200


def test_a_path_that_only_looks_like_the_docs_needs_the_token(guarded: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", guarded.base_url.port or 0)) as raw:
        raw.sendall(b"GET /docs/../v1/model HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert b" 404 " in answer.splitlines()[0]


def test_without_a_token_only_this_machines_names_are_served(http: httpx.Client) -> None:
    for host in ("localhost", "127.0.0.1:80", "[::1]:8001", "LOCALHOST:1"):
        assert http.get("/v1/model", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "10.0.0.1"):
        reply = http.get("/v1/model", headers={"Host": host})
        assert reply.status_code == 400
        assert problem_of(reply).field == "Host"


# --- request ids, probes, metrics --------------------------------------------------------------------


def test_a_request_id_is_echoed_or_made(http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"X-Request-ID": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    made = {http.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for bad in ("x" * 101, "two words", "caf\u00e9"):
        echoed = http.get("/healthz", headers={b"X-Request-ID": bad.encode()}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", echoed)


def test_health_tells_who_and_readiness_tells_why_not(http: httpx.Client, app: FastAPI) -> None:
    assert http.get("/healthz").json() == {
        "status": "ok",
        "service": "echo",
        "version": "1.2.3",
        "jail": "none",
    }
    assert http.get("/readyz").status_code == 200
    app.state.reason = "the model is loading"
    try:
        reply = http.get("/readyz")
        assert "the model is loading" in problem_of(reply).detail
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    finally:
        app.state.reason = None


def test_metrics_count_by_route_not_by_path(http: httpx.Client) -> None:
    for number in range(5):
        http.get(f"/nothing/{number}")
        http.get("/raise/broken")
    text = http.get("/metrics").text
    assert re.search(r'http_requests_total\{method="GET",route="/raise/\{code\}",status="500"\} \d', text)
    assert 'route="unmatched",status="404"' in text
    assert "/nothing" not in text
    assert "http_request_duration_seconds_bucket" in text
    assert "http_requests_in_flight 0.0" in text


def test_two_apps_do_not_share_their_metrics(echo: ModuleType) -> None:
    assert echo.make_app().state.registry is not echo.make_app().state.registry


# --- description -------------------------------------------------------------------------------------


def test_the_description_states_problems_and_token(http: httpx.Client, guarded: httpx.Client) -> None:
    schema: dict[str, Any] = http.get("/openapi.json").json()
    assert set(schema["components"]["schemas"]["Problem"]["properties"]) == set(Problem.model_fields)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}, path
            assert "422" not in operation["responses"]
    assert "application/problem+json" in schema["components"]["responses"]["Problem"]["content"]
    assert {"bearer": []} in schema["paths"]["/v1/decode"]["post"]["security"]
    needed = guarded.get("/openapi.json").json()["paths"]
    assert needed["/v1/decode"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in needed["/healthz"]["get"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)))
    assert references <= set(schema["components"]["schemas"])


def test_the_docs_page_loads_nothing_from_another_host(http: httpx.Client) -> None:
    reply = http.get("/docs")
    assert not re.findall(r"(?:https?:)?//[a-z]", reply.text)
    assert '"validatorUrl": null' in reply.text, "Swagger would send our address to its validator"
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    assets = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
    assert len(assets) == 3
    for asset in assets:
        assert asset.startswith("/docs/assets/")
        assert http.get(asset).status_code == 200
    css = http.get(next(asset for asset in assets if asset.endswith(".css"))).text
    assert not re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", css)


# --- disconnect --------------------------------------------------------------------------------------


def test_work_stops_when_the_client_hangs_up(http: httpx.Client, app: FastAPI) -> None:
    before = app.state.cancelled
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/decode", json={"messages": ["a"], "seed": 20_000}, timeout=0.3)
    end = time.monotonic() + 5
    while app.state.cancelled == before and time.monotonic() < end:
        time.sleep(0.02)
    assert app.state.cancelled == before + 1
    assert app.state.traffic.in_flight == 0


def test_many_requests_at_a_time_all_get_their_own_answer(http: httpx.Client) -> None:
    async def one(client: httpx.AsyncClient, number: int) -> bool:
        body = {"messages": [str(number)], "seed": number % 7}
        reply = await client.post("/v1/decode", json=body, headers={"X-Request-ID": f"n{number}"})
        return (
            reply.json()["programs"][0]["text"] == str(number)
            and reply.headers["x-request-id"] == f"n{number}"
        )

    async def all_of_them() -> list[bool]:
        async with httpx.AsyncClient(base_url=http.base_url, trust_env=False, timeout=30) as client:
            return await asyncio.gather(*(one(client, number) for number in range(100)))

    assert all(asyncio.run(all_of_them()))
