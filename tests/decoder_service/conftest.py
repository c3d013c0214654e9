"""Tiny random models with a tokenizer trained on the spot, and the real service in a process of its own."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ROOMS = os.pathsep.join(str(ROOT / room) for room in ("shared", "decoder-service"))
CORPUS = [
    "def total(numbers):\n    return sum(n for n in numbers if n > 0)\n",
    "def longest(words):\n    result = ''\n    for word in words:\n        if len(word) > len(result):\n",
    "f ( x ) min x * 5 if > 0", "filter even map square sum", "class A: pass\nimport math\n",
]  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(
    folder: Path, architecture: str, *, template: str | None = CHATML, endless: bool = False
) -> Path:
    """Save a random model of about 0.1 M parameters and a byte-level BPE tokenizer in HF format.

    endless   no token ends a reply: every program is as long as it may be
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<|im_start|>", "</turn>" if endless else "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=None if endless else "<|im_end|>", pad_token="<pad>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    fast.chat_template = template
    fast.save_pretrained(folder)
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[architecture]
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        # Wide enough that a random model's tokens differ from each other and sometimes end the reply.
        initializer_range=0.2, bos_token_id=None,
        eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    model = model_class(config)
    # A random model hardly ever ends a reply: a dozen tokens that do make lengths differ.
    model.generation_config.eos_token_id = None if endless else [fast.eos_token_id, *range(100, 112)]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["qwen2", "llama"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model folder, once per architecture."""
    return make_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 model folder."""
    return make_model(tmp_path_factory.mktemp("model"), "qwen2")


@pytest.fixture(scope="session")
def endless_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 model that never ends a program: slow enough to be caught at it."""
    return make_model(tmp_path_factory.mktemp("endless"), "qwen2", template=None, endless=True)


@pytest.fixture(scope="session")
def build_model() -> Callable[..., Path]:
    """The function that makes such a folder."""
    return make_model


REVISION = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as is asked for one public model; files are behind a redirect, as there."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if "/resolve" in path and not (self.folder / name).is_file():
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif "/resolve/" in path:
            self._answer(307, b"", {"Location": f"/resolve-cache/{name}"})
        elif "/resolve-cache/" in path:
            self._answer(200, (self.folder / name).read_bytes(), {"ETag": f'"{name}"'})
        elif "/commits/" in path:
            when = "2024-01-01T00:00:00.000Z"
            commit = {"id": REVISION, "authors": [], "date": when, "title": "x", "message": "x"}
            self._answer(200, json.dumps([commit]).encode())
        elif path.endswith("/discussions"):
            self._answer(200, json.dumps({"discussions": [], "count": 0, "start": 0}).encode())
        elif "/tree/" in path:
            self._answer(200, b"[]")
        else:
            about = {"id": "some/model", "sha": REVISION, "private": False, "tags": [], "siblings": []}
            self._answer(200, json.dumps(about).encode())

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "X-Repo-Commit": REVISION}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="session")
def hub(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a hub whose one model, some/model, has no safetensors."""
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(model_dir, tmp_path_factory.mktemp("hub") / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Service:
    """A running `python -m decoder_service`."""

    url: str
    process: subprocess.Popen[str]
    client: httpx.Client

    def decode(self, messages: list[str], **parameters: object) -> httpx.Response:
        return self.client.post("/v1/decode", json={"messages": messages, **parameters})

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def environment(**settings: object) -> dict[str, str]:
    """The environment of a service: a user's, in which nothing is switched off, plus the given settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DECODER_", "HF_HUB_"))}
    given = {f"DECODER_{name.upper()}": str(value) for name, value in settings.items()}
    return {**kept, "PYTHONPATH": ROOMS, "OMP_NUM_THREADS": "1", **given}


@pytest.fixture(scope="session")
def run_to_its_end() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the service with settings that make it end by itself."""

    def run(**settings: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "decoder_service"]
        return subprocess.run(
            command,
            env=environment(port=0, **settings),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Service]]:
    """Start a service with settings and wait until it is ready; all are stopped at the module's end."""
    running: list[Service] = []

    def begin(*, wait: bool = True, **settings: object) -> Service:
        port = free_port()
        command = [sys.executable, "-m", "decoder_service"]
        process = subprocess.Popen(
            command, env=environment(port=port, **settings), stderr=subprocess.DEVNULL, text=True
        )
        url = f"http://127.0.0.1:{port}"
        service = Service(url, process, httpx.Client(base_url=url, timeout=180))
        running.append(service)
        deadline = time.monotonic() + 240
        while wait and not _is_ready(service):
            assert process.poll() is None, "the service ended while it was loading"
            assert time.monotonic() < deadline, "the service was not ready in 240 s"
            time.sleep(0.05)
        return service

    yield begin
    for service in running:
        service.client.close()
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
    for service in running:
        service.process.wait(timeout=120)


def _is_ready(service: Service) -> bool:
    try:
        return service.client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
