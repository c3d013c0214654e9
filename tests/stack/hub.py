"""A model hub of one model, on this machine: what `hf download` asks of a hub, answered from a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """GET and HEAD of one model's listing and files. `token` is what it wants to see, if anything."""

    folder: Path
    model: str
    token: str
    refused: list[str]

    def do_GET(self) -> None:
        """Answer, or say 401 without the token and 404 for everything else."""
        path = self.path.split("?")[0]
        if self.headers.get("Authorization", "") != f"Bearer {self.token}":
            self.refused.append(path)
            self._send(401, b"")
        elif path.startswith(f"/api/models/{self.model}/tree/"):
            self._send(200, json.dumps([self._entry(file) for file in self._files()]).encode())
        elif path.startswith(f"/api/models/{self.model}"):
            names = [{"rfilename": file.name} for file in self._files()]
            found = {"id": self.model, "modelId": self.model, "sha": COMMIT, "siblings": names, "tags": []}
            self._send(200, json.dumps({**found, "private": False, "downloads": 0, "likes": 0}).encode())
        elif path.startswith(f"/{self.model}/resolve/") and (self.folder / Path(path).name).is_file():
            body = (self.folder / Path(path).name).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            self._send(200, body, ETag=f'"{etag}"', **{"X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"")

    do_HEAD = do_GET

    def _files(self) -> list[Path]:
        return sorted(file for file in self.folder.iterdir() if file.is_file())

    def _entry(self, file: Path) -> dict[str, object]:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": COMMIT}

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def hub(folder: Path, model: str, token: str) -> Iterator[ThreadingHTTPServer]:
    """Serve a folder as a model, on every address of this machine."""
    handler = type(
        "Handler", (Hub,), {"folder": folder, "model": model, "token": token, "refused": []}
    )  # fmt: skip
    server = ThreadingHTTPServer(("", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
