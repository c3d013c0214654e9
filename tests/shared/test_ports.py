"""A free port: of no use to outgoing connections, and nobody's."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shared import ports


def test_no_outgoing_connection_can_take_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = [socket.create_connection(server.getsockname()) for _ in range(50)]
        taken = min(client.getsockname()[1] for client in clients)
        for client in clients:
            client.close()
    lowest = int(ports.RANGE.read_text().split()[0]) if ports.RANGE.exists() else taken
    assert all(ports.LOWEST <= ports.free_port() < lowest for _ in range(50))


@pytest.mark.parametrize("said", ["20000 60999", "1024 65535", "nonsense", ""])
def test_a_range_that_leaves_no_room_or_cannot_be_read_still_gives_a_port(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "range").write_text(said)
    monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", ports.free_port()))


def test_a_port_that_is_listened_on_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as one:
        taken = one.getsockname()[1]
        (tmp_path / "range").write_text(f"{taken + 1} 60999")
        monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
        monkeypatch.setattr(ports, "LOWEST", taken)
        assert ports.free_port() != taken
