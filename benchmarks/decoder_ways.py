"""The ways that benchmarks/decoder.py compares: clients of a service, and transformers in this process."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from decoder_service.engines.generation import left_padded
from decoder_service.engines.hf import HfEngine
from decoder_service.replies import program_of
from shared.clients import DecoderClient
from shared.ports import free_port

REPO = Path(__file__).resolve().parent.parent
# Of generate_batch.
_PAGE, _READ_AT_A_TIME = 256, 1024


class Clients:
    """One client of an address per share, kept from round to round."""

    def __init__(self, url: str, max_new_tokens: int) -> None:
        self._url, self._max_new_tokens = url, max_new_tokens
        self._loop = asyncio.new_event_loop()
        self._clients: list[DecoderClient] = []

    def ask(self, shares: list[list[str]]) -> list[str]:
        """Send each share from a client of its own, all at once."""
        while len(self._clients) < len(shares):
            self._clients.append(DecoderClient(self._url, deadline_s=3600))
        return self._loop.run_until_complete(self._ask(shares))

    async def _ask(self, shares: list[list[str]]) -> list[str]:
        calls = [
            client.decode(share, max_new_tokens=self._max_new_tokens)
            for client, share in zip(self._clients, shares, strict=False)
        ]
        return [program.text for programs in await asyncio.gather(*calls) for program in programs]

    def close(self) -> None:
        """Let the connections go."""
        for client in self._clients:
            self._loop.run_until_complete(client.aclose())
        self._loop.close()


@torch.inference_mode()
def generated(engine: HfEngine, messages: list[str], args: argparse.Namespace) -> list[str]:
    """Continue messages with transformers' own generate(), in one batch."""
    model, prompting = engine._model, engine._prompting
    padded = left_padded(engine.prepare(messages), prompting.pad_id, model.device)
    ids = padded.first["input_ids"]
    whole = model.generate(
        ids, attention_mask=padded.mask, max_new_tokens=args.max_new_tokens, do_sample=False,
        eos_token_id=sorted(engine._stop_ids), pad_token_id=prompting.pad_id,
    )  # fmt: skip
    rows = whole[:, ids.shape[1] :].tolist()
    said = [list(takewhile(lambda token: token not in engine._stop_ids, row)) for row in rows]
    return [program_of(text) for text in prompting.text(said)]


def generated_by_pages(engine: HfEngine, messages: list[str], args: argparse.Namespace) -> list[str]:
    """Continue messages with transformers' generate_batch()."""
    config = GenerationConfig(
        max_new_tokens=args.max_new_tokens, do_sample=False, eos_token_id=sorted(engine._stop_ids),
        pad_token_id=engine._prompting.pad_id,
    )  # fmt: skip
    prompts = [list(prompt) for prompt in engine.prepare(messages)]
    found = engine._model.generate_batch(
        inputs=prompts,
        generation_config=config,
        # By itself it takes most of the free memory, and on a CPU every pass then goes over all of that.
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=len(prompts) * (1 + (max(map(len, prompts)) + args.max_new_tokens) // _PAGE),
            page_size=_PAGE,
            max_batch_tokens=_READ_AT_A_TIME,
        ),
    )
    if len(found) != len(messages) or any(each.error for each in found.values()):
        raise RuntimeError(f"generate_batch answered {len(found)} of {len(messages)}: see its log above")
    said = [
        list(takewhile(lambda token: token not in engine._stop_ids, each.generated_tokens))
        for each in found.values()
    ]
    return [program_of(text) for text in engine._prompting.text(said)]


@contextmanager
def _process(command: list[str], url: str, path: str, environment: dict[str, str]) -> Iterator[str]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not _answers(url + path):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{' '.join(command)} ended: {log.read()[-2000:]}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _environment(args: argparse.Namespace) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DECODER_")}
    rooms = [str(REPO / room) for room in ("shared", "decoder-service")]
    paths = os.pathsep.join([*rooms, *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}


def decoder(args: argparse.Namespace, **settings: Any) -> Any:
    """Run the service without a cache."""
    port = free_port()
    own = {"port": port, "cache_size": 0, "log_level": "error", **settings}
    given = {f"DECODER_{name.upper()}": str(value) for name, value in own.items()}
    command = [sys.executable, "-m", "decoder_service"]
    return _process(command, f"http://127.0.0.1:{port}", "/readyz", {**_environment(args), **given})


def serve(folder: Path, args: argparse.Namespace) -> Any:
    """Run `transformers serve` on a folder's model."""
    port = free_port()
    command = [
        sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", args.device,
        "--dtype", args.dtype, "--port", str(port), "--host", "127.0.0.1", "--log-level", "error",
    ]  # fmt: skip
    return _process(command, f"http://127.0.0.1:{port}", "/health", _environment(args))
