"""What loads a model from a hub speaks to that hub and to nobody else."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

REVISION = "a" * 40
# Every name that is looked up while the room's package loads a model, and by the threads it begins.
WATCHED = """
import importlib, sys, threading
asked = set()
sys.addaudithook(lambda event, found: event == "socket.getaddrinfo" and asked.add(str(found[0])))
importlib.import_module(sys.argv[1])
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained("some/model")
for thread in threading.enumerate():
    if thread is not threading.current_thread() and not thread.daemon:
        thread.join(30)
print(*sorted(asked))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as is asked for one public model without safetensors."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        file = self.folder / path.rpartition("/")[2]
        if "/resolve/" in path:
            self._answer(200, file.read_bytes()) if file.exists() else self._answer(404, b"{}")
        elif "/commits/" in path:
            when = "2024-01-01T00:00:00.000Z"
            commit = {"id": REVISION, "authors": [], "date": when, "title": "x", "message": "x"}
            self._answer(200, json.dumps([commit]).encode())
        elif path.endswith("/discussions"):
            self._answer(200, json.dumps({"discussions": [], "count": 0, "start": 0}).encode())
        else:
            about = {"id": "some/model", "sha": REVISION, "private": False, "tags": [], "siblings": []}
            self._answer(200, json.dumps(about).encode())

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{self.path.rpartition("/")[2]}"')
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(model_dir: Path, tmp_path: Path) -> Iterator[str]:
    import torch
    from safetensors.torch import load_file

    (tmp_path / "config.json").write_bytes((model_dir / "config.json").read_bytes())
    torch.save(load_file(model_dir / "model.safetensors"), tmp_path / "pytorch_model.bin")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("package", ["decoder_service", "trainer"])
def test_a_model_without_safetensors_is_told_to_no_converter(hub: str, package: str, tmp_path: Path) -> None:
    switches = ("HF_", "DISABLE_", "DO_NOT_TRACK", "TRANSFORMERS_")
    free = {name: value for name, value in os.environ.items() if not name.startswith(switches)}
    environment = {**free, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", WATCHED, package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["127.0.0.1"], done.stderr
