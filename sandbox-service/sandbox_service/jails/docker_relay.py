"""Between a lane's pipes and its container: it makes the container, carries bytes, and removes it.

A process of its own, so that the service's event loop waits for no engine, and so that the container's stdin
ends with it however it dies: the zygote sees that, kills what it started and ends. It reads nothing of what
it carries but the engine's own stream headers.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading

from sandbox_service.inside import frames
from sandbox_service.jails.docker import engine_from_environment, remove
from sandbox_service.jails.jail import INSIDE

_HEADER = struct.Struct("!BxxxI")  # stream (1 stdout, 2 stderr), length: the engine's attach protocol
_PART = 1 << 18


def main() -> None:
    """Run one container to its end; its settings are in argv[1], as `containers.create` takes them."""
    client = engine_from_environment()
    container = client.containers.create(**json.loads(sys.argv[1]))
    try:
        attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        stream = getattr(attached, "_sock", attached)
        stream.settimeout(None)
        container.start()
        stream.sendall(_zygote())
        threading.Thread(target=_requests, args=(stream,), daemon=True).start()
        _replies(stream)
    finally:
        remove(container)


def _zygote() -> bytes:
    """The zygote's modules, as the container's bootstrap takes them: packages first."""
    texts = {"sandbox_service": "", "sandbox_service.inside": ""}
    for path in sorted(INSIDE.glob("*.py")):
        if path.stem != "__init__":
            texts[f"sandbox_service.inside.{path.stem}"] = path.read_text(encoding="utf-8")
    data = json.dumps(texts).encode()
    return len(data).to_bytes(4, "big") + data


def _requests(stream: socket.socket) -> None:
    """Carry the lane's requests to the container, and then tell it that there are no more."""
    with contextlib.suppress(OSError):
        while data := os.read(0, _PART):
            stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)


def _replies(stream: socket.socket) -> None:
    """Carry the container's two streams to the lane until both end."""
    held = bytearray()
    while data := stream.recv(_PART):
        held += data
        at = 0
        while len(held) - at >= _HEADER.size:
            which, length = _HEADER.unpack_from(held, at)
            if len(held) - at - _HEADER.size < length:
                break
            at += _HEADER.size
            frames.write_whole(1 if which == 1 else 2, bytes(held[at : at + length]))
            at += length
        del held[:at]
