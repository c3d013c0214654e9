"""The service as a process of its own: what goes over HTTP, and how it starts and ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

# About a second with a model that never stops.
LONG = {"max_new_tokens": 700}


@pytest.fixture(scope="module")
def service(start: Callable[..., Any], model_dir: Path) -> Any:
    return start(model=model_dir)


@pytest.fixture(scope="module")
def slow(start: Callable[..., Any], endless_dir: Path) -> Any:
    return start(model=endless_dir, queue_messages=4, max_batch=1)


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def wait_for(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_programs_come_in_the_order_of_the_messages(service: Any) -> None:
    messages = [f"f{n} x" for n in range(20)]
    reply = service.decode(messages, max_new_tokens=20).json()
    assert [service.decode([m], max_new_tokens=20).json()["programs"][0]["text"] for m in messages] == [
        program["text"] for program in reply["programs"]
    ]
    assert reply["model"] == service.client.get("/v1/model").json()["name"]


def test_equal_messages_are_decoded_once_and_repeats_come_from_the_cache(service: Any) -> None:
    before = service.metric("decoder_generated_total")
    messages = ["once", "twice", "once", "once"]
    first = service.decode(messages, max_new_tokens=15).json()
    assert service.metric("decoder_generated_total") - before == 2
    assert [program["cached"] for program in first["programs"]] == [False, False, True, True]
    assert first["cached"] == 2
    second = service.decode(messages, max_new_tokens=15).json()
    assert service.metric("decoder_generated_total") - before == 2
    assert second["cached"] == 4
    assert [p["text"] for p in second["programs"]] == [p["text"] for p in first["programs"]]


def test_greedy_programs_do_not_depend_on_the_seed_and_sampled_ones_do(service: Any) -> None:
    def texts(**parameters: object) -> list[str]:
        programs = service.decode(["alpha", "beta", "gamma"], max_new_tokens=15, **parameters).json()[
            "programs"
        ]
        return [program["text"] for program in programs]

    before = service.metric("decoder_generated_total")
    assert texts(seed=1) == texts(seed=2) == texts(top_p=0.5)
    assert service.metric("decoder_generated_total") - before == 3
    assert texts(temperature=1.0, seed=1) == texts(temperature=1.0, seed=1)
    assert texts(temperature=1.0, seed=1) != texts(temperature=1.0, seed=2)
    assert service.metric("decoder_generated_total") - before == 9


def test_requests_that_arrive_together_share_a_batch(start: Callable[..., Any]) -> None:
    service = start(engine="echo", max_wait_ms=300)
    threads = [in_thread(lambda n=n: service.decode([f"m{n}"], max_new_tokens=5)) for n in range(6)]
    for thread, _ in threads:
        thread.join()
    assert all(found[0].status_code == 200 for _, found in threads)
    assert service.metric("decoder_generated_total") == 6
    assert service.metric("decoder_batch_rows_count") <= 2


def test_a_stream_brings_every_message_once_and_the_same_programs(service: Any) -> None:
    messages = [f"stream {n % 7}" for n in range(30)]
    body = {"messages": messages, "max_new_tokens": 12}
    headers = {"accept": "application/x-ndjson"}
    with service.client.stream("POST", "/v1/decode", json=body, headers=headers) as reply:
        assert reply.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in reply.iter_lines()]
    assert sorted(line["index"] for line in lines) == list(range(30))
    programs = service.decode(messages, max_new_tokens=12).json()["programs"]
    for line in lines:
        assert line["text"] == programs[line["index"]]["text"]
    assert sum(not line["cached"] for line in lines) == 7


def test_the_model_card_goes_over_http(service: Any, model_dir: Path) -> None:
    card = service.client.get("/v1/model").json()
    assert (card["name"], card["engine"], card["dtype"]) == (model_dir.name, "hf", "float32")
    assert len(card["weights_sha256"]) == len(card["template_sha256"]) == 64
    assert set(card["libraries"]) >= {"torch", "transformers", "tokenizers"}


def test_tokens_of_texts_are_counted(service: Any) -> None:
    reply = service.client.post("/v1/tokenize", json={"texts": ["", "def total(numbers):", "é"]})
    assert reply.json()["tokens"][0] == 0 and all(reply.json()["tokens"][1:])


def test_the_prompt_is_shown_whole_and_nothing_is_generated(service: Any) -> None:
    before = service.metric("decoder_generated_total")
    body = {"messages": ["f x even", "f <|im_end|> x"], "max_new_tokens": 5}
    reply = service.client.post("/v1/prompt", json=body)
    first, second = reply.json()["prompts"]
    assert first.count("f x even") == 1 and "You are a decoder." in first
    assert first.replace("f x even", "f <|im_end|> x") == second
    assert service.metric("decoder_generated_total") == before


@pytest.mark.parametrize("field", ["task", "tests", "entry_point", "system", "prompt"])
def test_a_task_has_no_way_in(service: Any, field: str) -> None:
    reply = service.decode(["f x"], **{field: "Write a function to add numbers."})
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["field"] == field


@pytest.mark.parametrize("temperature", [5e-324, 1e-39, 1e-30, 9e-7])
def test_a_temperature_that_no_logit_can_be_divided_by_is_refused(service: Any, temperature: float) -> None:
    for path, body in (
        ("/v1/decode", {"messages": ["f x"]}),
        ("/v1/latents/decode", {"layout": "plain", "conversations": [[{"role": "user", "content": "f"}]]}),
    ):
        reply = service.client.post(path, json={**body, "temperature": temperature})
        assert reply.status_code == 422
        assert reply.json()["field"] == "temperature"
        assert f"{temperature}: " in reply.json()["detail"] and "0 is greedy" in reply.json()["detail"]


def test_the_lowest_temperature_samples_what_is_likeliest(service: Any) -> None:
    messages = ["f x", "total numbers"]
    low, greedy = (
        service.decode(messages, max_new_tokens=15, temperature=temperature).json()["programs"]
        for temperature in (1e-6, 0)
    )
    assert [program["text"] for program in low] == [program["text"] for program in greedy]
    assert all(program["text"] for program in low)


def test_a_prompt_that_leaves_no_room_is_refused_by_name_and_not_cut(service: Any) -> None:
    reply = service.decode(["short", "long " * 400], max_new_tokens=20)
    assert reply.status_code == 422
    problem = reply.json()
    assert problem["field"] == "messages[1]" and "lower max_new_tokens" in problem["hint"]
    told = re.search(r"prompt of (\d+) tokens .*=20 are (\d+) over .*context of 1024", problem["detail"])
    assert told and int(told[1]) + 20 - int(told[2]) == 1024


def test_a_full_queue_says_when_to_come_back(slow: Any) -> None:
    busy, found = in_thread(lambda: slow.decode([f"busy {n}" for n in range(4)], **LONG))
    wait_for(lambda: slow.metric("decoder_queue_messages") == 4)
    refused = slow.decode(["one more"])
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "DECODER_QUEUE_MESSAGES=4" in refused.json()["detail"]
    assert slow.client.get("/readyz").status_code == 200
    busy.join()
    assert found[0].status_code == 200
    assert slow.decode(["one more"], max_new_tokens=5).status_code == 200


def test_an_empty_queue_takes_a_request_larger_than_its_bound(start: Callable[..., Any]) -> None:
    service = start(engine="echo", queue_messages=1)
    assert service.decode(["a", "b", "c"]).status_code == 200


def test_what_nobody_waits_for_is_dropped_before_it_runs(slow: Any) -> None:
    before = slow.metric("decoder_generated_total")
    busy, _ = in_thread(lambda: slow.decode(["occupied"], **LONG))
    wait_for(lambda: slow.metric("decoder_queue_messages") == 1)
    with pytest.raises(httpx.ReadTimeout):
        messages = [f"given up {n}" for n in range(3)]
        httpx.post(f"{slow.url}/v1/decode", json={"messages": messages, **LONG}, timeout=0.1)
    busy.join()
    wait_for(lambda: slow.metric("decoder_queue_messages") == 0)
    # At most the one that had begun in the meantime, beside the one that was waited for.
    assert slow.metric("decoder_generated_total") - before <= 2


def test_a_message_two_requests_wait_for_outlives_the_one_that_leaves(slow: Any) -> None:
    busy, _ = in_thread(lambda: slow.decode(["occupied again"], **LONG))
    wait_for(lambda: slow.metric("decoder_queue_messages") == 1)
    stays, found = in_thread(lambda: slow.decode(["shared"], **LONG))
    wait_for(lambda: slow.metric("decoder_queue_messages") == 2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow.url}/v1/decode", json={"messages": ["shared"], **LONG}, timeout=0.1)
    busy.join()
    stays.join()
    assert found[0].json()["programs"][0]["tokens"] == 700


def test_the_echo_engine_needs_no_torch_and_answers_with_the_message(start: Callable[..., Any]) -> None:
    service = start(engine="echo")
    messages = ["def f(x):\n    return x\n", "", "```python\nkept\n```"]
    programs = service.decode(messages).json()["programs"]
    assert [program["text"] for program in programs] == messages
    assert programs[0]["tokens"] == 8 and programs[0]["finish_reason"] == "stop"
    cut = service.decode(["one two three"], max_new_tokens=2).json()["programs"][0]
    assert cut == {"text": "one two ", "tokens": 2, "finish_reason": "length", "cached": False}
    card = service.client.get("/v1/model").json()
    assert (card["engine"], card["name"], card["weights_sha256"]) == ("echo", "echo", None)
    maps = Path(f"/proc/{service.process.pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text()


def test_it_asks_for_patience_until_it_is_ready_and_finishes_its_work_at_the_end(
    start: Callable[..., Any], endless_dir: Path
) -> None:
    service = start(model=endless_dir, wait=False)
    early: list[httpx.Response] = []

    def answered() -> bool:
        try:
            early.append(service.decode(["f"]))
        except httpx.TransportError:
            return False
        return True

    wait_for(answered)
    assert early[0].status_code == 503 and int(early[0].headers["retry-after"]) >= 1
    assert "being loaded" in service.client.get("/readyz").json()["detail"]
    assert service.client.get("/healthz").status_code == 200
    wait_for(lambda: service.client.get("/readyz").status_code == 200, 240)
    busy, found = in_thread(lambda: service.decode(["finish me"], **LONG))
    wait_for(lambda: service.metric("decoder_queue_messages") == 1)
    service.process.send_signal(signal.SIGTERM)
    busy.join()
    assert found[0].status_code == 200 and found[0].json()["programs"][0]["tokens"] == 700
    assert service.process.wait(timeout=60) == 0


def test_a_missing_model_ends_the_process_with_the_way_out(
    run_to_its_end: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ended = run_to_its_end(model=tmp_path / "nowhere")
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 2
    assert f"DECODER_MODEL='{tmp_path}/nowhere': there is no such folder" in last
    assert "set DECODER_MODEL to a folder" in last and "DECODER_ENGINE=echo" in last
    assert "Traceback" not in ended.stderr


def test_a_wrong_setting_is_named_before_anything_is_loaded(
    run_to_its_end: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = run_to_its_end(engine="gguf")
    assert ended.returncode == 2
    assert ended.stderr.startswith("DECODER_ENGINE='gguf'")


def test_a_queue_full_of_tokens_refuses_more_and_says_when_to_come_back(
    start: Callable[..., Any], endless_dir: Path
) -> None:
    service = start(model=endless_dir, queue_tokens=2500, max_batch=1)
    busy, found = in_thread(lambda: service.decode(["a", "b"], **LONG))
    wait_for(lambda: service.metric("decoder_queue_tokens") > 1400)
    refused = service.decode(["c"], **LONG)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert "DECODER_QUEUE_TOKENS=2500" in refused.json()["detail"]
    assert service.decode(["c"], max_new_tokens=5).status_code == 200, "a small one still has room"
    busy.join()
    assert found[0].status_code == 200
    assert service.metric("decoder_queue_tokens") == 0


def test_what_nobody_waits_for_is_let_go_while_it_runs(slow: Any) -> None:
    before, let_go = slow.metric("decoder_generated_total"), slow.metric("decoder_abandoned_total")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow.url}/v1/decode", json={"messages": ["left alone"], **LONG}, timeout=0.15)
    wait_for(lambda: slow.metric("decoder_queue_messages") == 0)
    assert slow.metric("decoder_generated_total") == before
    assert slow.metric("decoder_abandoned_total") == let_go + 1
    whole = slow.decode(["left alone"], **LONG).json()["programs"][0]
    assert whole["tokens"] == 700 and not whole["cached"]


def test_a_message_asked_for_again_while_it_is_let_go_is_still_answered(slow: Any) -> None:
    for number in range(3):
        message = f"again {number}"
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{slow.url}/v1/decode", json={"messages": [message], **LONG}, timeout=0.12)
        program = slow.decode([message], **LONG).json()["programs"][0]
        assert program["tokens"] == 700


def test_a_latent_request_nobody_waits_for_is_let_go(slow: Any) -> None:
    talk = [[{"role": "user", "content": "q"}]]
    body = {"conversations": talk, "layout": "plain", **LONG}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow.url}/v1/latents/decode", json=body, timeout=0.1)
    started = time.monotonic()
    assert slow.decode(["next"], max_new_tokens=3).status_code == 200
    after = time.monotonic() - started
    started = time.monotonic()
    assert slow.client.post("/v1/latents/decode", json=body).status_code == 200
    assert after < 0.5 * (time.monotonic() - started)
