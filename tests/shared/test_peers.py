"""One name, several instances: real services on addresses of the loopback, and a resolver that names them."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from shared import peers
from shared.clients import DecoderClient, run
from shared.errors import NoAnswer

NAME, TOKEN = "decoder.test", "a-token"


class Names:
    """What the system's resolver says of NAME; everything else is asked of the system.

    `answering` is cleared for a resolver that hangs, and `asked` counts what it was asked.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        self.asked = 0
        self.answering = threading.Event()
        self.answering.set()
        self._system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._get)

    def _get(self, host: Any, port: Any, *args: Any, **named: Any) -> list[Any]:
        if host not in (NAME, NAME.encode()):
            return self._system(host, port, *args, **named)
        self.asked += 1
        self.answering.wait(20)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    monkeypatch.setattr(peers, "LOOK_UP_S", 0.2)
    found = Names(monkeypatch)
    yield found
    found.answering.set()


def started(start: Callable[..., Any], host: str, port: int) -> Any:
    """The echo service on one address of the loopback, answering."""
    process = start(port, ECHO_HOST=host, ECHO_TOKEN=TOKEN)
    end = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"http://{host}:{port}/healthz", trust_env=False)
            return process
        except httpx.TransportError:
            assert process.child.poll() is None and time.monotonic() < end, process.log
            time.sleep(0.05)


def decoded(host: str, port: int) -> int:
    """How many decode requests an instance has answered."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    text = httpx.get(f"http://{host}:{port}/metrics", headers=headers, trust_env=False).text
    found = re.search(r'http_requests_total\{.*route="/v1/decode".*\} (\S+)', text)
    return int(float(found[1])) if found else 0


def test_a_name_with_several_addresses_is_several_instances(
    start: Callable[..., Any], names: Names, free_port: int
) -> None:
    for host in ("127.0.0.2", "127.0.0.3"):
        started(start, host, free_port)
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    client = DecoderClient(f"http://{NAME}:{free_port}", token=TOKEN, deadline_s=20)
    messages = [f"m{number}" for number in range(64)]
    programs = run(client.decode(messages))
    assert [program.text for program in programs] == messages
    assert (decoded("127.0.0.2", free_port), decoded("127.0.0.3", free_port)) == (1, 1)


def test_an_instance_that_goes_is_left_out_and_one_that_comes_is_used(
    start: Callable[..., Any], names: Names, free_port: int
) -> None:
    first = started(start, "127.0.0.2", free_port)
    names.addresses = ["127.0.0.2"]
    client = DecoderClient(f"http://{NAME}:{free_port}", token=TOKEN, deadline_s=20)

    async def ask(times: int) -> None:
        for _ in range(times):
            await client.decode(["m"])

    run(ask(1))
    started(start, "127.0.0.3", free_port)
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    first.kill()
    time.sleep(0.3)
    run(ask(3))
    assert decoded("127.0.0.3", free_port) == 3
    names.addresses = ["127.0.0.3"]
    time.sleep(0.3)
    run(ask(1))
    # One address is asked by its name again.
    assert [peer.url for peer in client._transport.peers] == [f"http://{NAME}:{free_port}"]
    assert decoded("127.0.0.3", free_port) == 4


def test_a_resolver_that_fails_takes_no_instance_away(names: Names) -> None:
    found = peers.Peers("decoder", [f"http://{NAME}:1/"])
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    asyncio.run(found.look_up())
    before = found.all()
    names.addresses = []
    time.sleep(0.3)
    asyncio.run(found.look_up())
    assert found.all() == before
    assert [peer.url for peer in before] == ["http://127.0.0.2:1", "http://127.0.0.3:1"]
    assert {peer.host for peer in before} == {f"{NAME}:1"}


@pytest.mark.parametrize("deadline_s", [0.5, 3])
def test_a_resolver_that_hangs_costs_a_call_no_more_than_its_deadline(
    names: Names, free_port: int, deadline_s: float
) -> None:
    names.answering.clear()
    client = DecoderClient(f"http://{NAME}:{free_port}", deadline_s=deadline_s)
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        run(client.decode(["m"]))
    assert time.monotonic() - began < deadline_s + 0.5


def test_while_a_resolver_hangs_the_known_addresses_are_used_and_it_is_not_asked_again_at_once(
    start: Callable[..., Any], names: Names, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MAX_LOOK_UP_S", 0.5)
    for host in ("127.0.0.2", "127.0.0.3"):
        started(start, host, free_port)
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    client = DecoderClient(f"http://{NAME}:{free_port}", token=TOKEN, deadline_s=10)

    async def ask() -> float:
        began = time.monotonic()
        await client.decode(["m"])
        return time.monotonic() - began

    async def twice() -> tuple[float, float]:
        return await ask(), await ask()

    run(ask())
    time.sleep(0.3)
    names.answering.clear()
    names.asked = 0
    first, second = run(twice())
    assert 0.5 <= first < 2 and second < 0.2
    assert names.asked == 1


def test_an_answer_that_comes_late_is_used_when_it_comes(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MAX_LOOK_UP_S", 0.1)
    found = peers.Peers("decoder", [f"http://{NAME}:1"])
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    names.answering.clear()
    asyncio.run(found.look_up())
    assert [peer.url for peer in found.all()] == [f"http://{NAME}:1"]
    names.answering.set()
    end = time.monotonic() + 5
    while len(found.all()) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert [peer.url for peer in found.all()] == ["http://127.0.0.2:1", "http://127.0.0.3:1"]


def test_what_is_no_name_of_several_is_left_as_it_is() -> None:
    given = ["http://127.0.0.1:1", "http://localhost:2", "https://decoder.test:3"]
    found = peers.Peers("decoder", given)
    asyncio.run(found.look_up())
    assert [peer.url for peer in found.all()] == given
