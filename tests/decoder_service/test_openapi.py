"""The service against its own description and its own documents."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from decoder_service.settings import DecoderSettings
from shared.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("services/**/*.md"), *ROOT.glob("*-service/**/*.md")})


def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "tests" / "fuzz.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_schemathesis_finds_nothing(start: Callable[..., Any], model_dir: Path, tmp_path: Path) -> None:
    brief = shutil.copytree(model_dir, tmp_path / "model")
    generation = brief / "generation_config.json"
    every_second = {"eos_token_id": list(range(0, 400, 2))}  # hundreds of requests, a few tokens each
    generation.write_text(json.dumps({**json.loads(generation.read_text()), **every_second}))
    assert fuzz().findings(start(model=brief).url, tmp_path, examples=4) == ""


@pytest.mark.parametrize(
    ("field", "given"), [("seed", False), ("seed", "5"), ("top_p", "0.5"), ("max_new_tokens", True)]
)
def test_what_the_schema_calls_a_number_must_be_one(
    start: Callable[..., Any], field: str, given: object
) -> None:
    reply = start(engine="echo").decode(["f"], **{field: given})
    assert reply.status_code == 422 and reply.json()["field"] == field
    assert "a number is wanted" in reply.json()["detail"]


# --- documents ---------------------------------------------------------------------------------------


def examples() -> Iterator[tuple[Path, list[str], str]]:
    """Yield (file, words of the command, the line below it) of every curl to /v1 in any document."""
    for file in DOCUMENTS:
        lines = iter(file.read_text(encoding="utf-8").splitlines())
        for line in lines:
            command = line.strip().removeprefix("$ ")
            if command.startswith("curl ") and "/v1/" in command:
                words = None
                while words is None:
                    try:
                        words = shlex.split(command) if not command.endswith("\\") else None
                    except ValueError:  # a quotation goes on in the next line
                        words = None
                    if words is None:
                        command = f"{command.removesuffix(chr(92))}\n{next(lines)}"
                yield file, words, next(lines, "")


def run_example(words: list[str], ports: dict[str, int]) -> Any:
    """Run a documented curl as it stands, but for the port."""
    for port, here in ports.items():
        words = [word.replace(f"localhost:{port}/", f"localhost:{here}/") for word in words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def sandbox_port() -> Iterator[int]:
    port = free_port()
    rooms = os.pathsep.join(str(ROOT / room) for room in ("shared", "sandbox-service"))
    environment = {**os.environ, "PYTHONPATH": rooms, "SANDBOX_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox_service"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/readyz"):
            assert process.poll() is None and time.monotonic() < deadline, "no sandbox"
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def without_measures(value: Any) -> Any:
    """Return a reply without what no two runs share, and without the jail, which is the machine's."""
    if isinstance(value, dict):
        return {
            key: without_measures(each)
            for key, each in value.items()
            if key not in ("usage", "jail") and not key.endswith("_ms")
        }
    return [without_measures(each) for each in value] if isinstance(value, list) else value


def test_every_documented_curl_gives_what_stands_below_it(
    start: Callable[..., Any], sandbox_port: int
) -> None:
    decoder = start()
    ports = {"8001": int(decoder.url.rsplit(":", 1)[1]), "8002": sandbox_port}
    seen = set()
    for file, words, below in examples():
        seen.update(port for port in ports if any(f":{port}/" in word for word in words))
        found = run_example(words, ports)
        if below.startswith("{"):
            assert without_measures(found) == without_measures(json.loads(below)), f"{file.name}: {words}"
    assert seen == set(ports)


def test_every_setting_a_document_names_exists() -> None:
    known = {f"DECODER_{name.upper()}" for name in DecoderSettings.model_fields} | {"DECODER_URL"}
    for file in (*ROOT.glob("docker-compose.yml"), *ROOT.glob("services/*/docker-compose.yml")):
        known |= set(re.findall(r"\$\{(DECODER_[A-Z_]+)", file.read_text(encoding="utf-8")))
    for file in DOCUMENTS:
        named = set(re.findall(r"\bDECODER_[A-Z_]*[A-Z]\b", file.read_text(encoding="utf-8")))
        assert named <= known, file
