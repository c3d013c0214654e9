"""`psuedoptimal doctor`: what is here, and whether it works. Reads and asks; changes nothing."""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from shared.clients import DecoderClient, SandboxClient, run
from shared.errors import RoomError
from shared.wire import Capabilities, ModelCard
from trainer.bearer import read_token
from trainer.cli_services import DECODER_URL, SANDBOX_URL
from trainer.config import service_url
from trainer.config_text import STARTER_STUDENT

DEADLINE_S = 3.0
RUNSC_SINCE = 2023
NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
TRACKERS = ("tensorboard", "trackio", "clearml", "wandb")


class Finding(NamedTuple):
    """One line of the table. `missing` counts: the exit code is 1 then; `absent` and `old` do not."""

    what: str
    state: Literal["ok", "old", "absent", "missing"]
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the services to look at."""
    parser.add_argument("--decoder-url", help=f"fail if it does not answer [{DECODER_URL}, which may be off]")
    parser.add_argument("--sandbox-url", help=f"fail if it does not answer [{SANDBOX_URL}, which may be off]")
    parser.add_argument("--decoder-token-file", type=Path, help="file with the decoder's bearer token")
    parser.add_argument("--sandbox-token-file", type=Path, help="file with the sandbox's bearer token")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.epilog = "example:\n  psuedoptimal doctor"


def command(args: argparse.Namespace) -> int:
    """Print the table; 1 if something that is needed is missing."""
    for url in filter(None, (args.decoder_url, args.sandbox_url)):
        service_url(url)
    found = [*_python(), *_devices(), *_jails(), _starter()]
    found += _decoder(args.decoder_url, read_token(args.decoder_token_file))
    found += _sandbox(args.sandbox_url, read_token(args.sandbox_token_file))
    if args.json:
        print(json.dumps([finding._asdict() for finding in found], indent=1))
    else:
        for finding in found:
            print(f"{finding.what:<16}{finding.state:<9}{finding.detail}")
    return 1 if any(finding.state == "missing" for finding in found) else 0


def _python() -> list[Finding]:
    good = sys.version_info >= (3, 10)
    found = [
        Finding("python", "ok" if good else "missing", f"{platform.python_version()} ({sys.executable})")
    ]
    for name in NEEDED:
        there = _version(name)
        found.append(
            Finding(name, "ok" if there else "missing", there or "pip install 'psuedoptimal[trainer]'")
        )
    there = _version("bitsandbytes")
    found.append(
        Finding("bitsandbytes", "ok" if there else "absent", there or "4-bit on CUDA: the `cuda` extra")
    )
    trackers = [f"{name} {there}" for name in TRACKERS if (there := _version(name))]
    found.append(Finding("trackers", "ok" if trackers else "absent", ", ".join(trackers)))
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _devices() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("devices", "missing", str(error))]
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    named = [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus]
    mps = "MPS" if torch.backends.mps.is_available() else "no MPS"
    return [
        Finding("cuda", "ok" if named else "absent", ", ".join(named) or f"no CUDA device; {mps}"),
        Finding("cpu", "ok", f"{torch.get_num_threads()} torch threads, {platform.machine()}"),
    ]


def _jails() -> list[Finding]:
    found = []
    for tool in ("bwrap", "runsc"):
        path = shutil.which(tool)
        said = _output([path, "--version"]) if path else ""
        # As the sandbox sees it: one of before 2023 has no platform but ptrace.
        old = tool == "runsc" and (year := re.search(r"20\d\d", said)) and int(year[0]) < RUNSC_SINCE
        note = f"; of before {RUNSC_SINCE}: used only where SANDBOX_JAIL=gvisor asks for it" if old else ""
        detail = f"{path}: {said}{note}" if path else "not on PATH"
        found.append(Finding(tool, "absent" if not path else "old" if old else "ok", detail))
    return found


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def _starter() -> Finding:
    there = (STARTER_STUDENT / "config.json").is_file()
    return Finding("starter student", "ok" if there else "absent", str(STARTER_STUDENT))


def _decoder(url: str | None, token: str | None) -> list[Finding]:
    async def ask() -> ModelCard:
        async with DecoderClient(url or DECODER_URL, token=token, deadline_s=DEADLINE_S) as decoder:
            return await decoder.model()

    def describe(card: ModelCard) -> list[Finding]:
        return [
            Finding(
                "  model",
                "ok",
                f"{card.name} ({card.engine}, {card.dtype}, {card.quantization}, {card.device})",
            )
        ]

    return _asked("decoder", url, DECODER_URL, lambda: describe(run(ask())))


def _sandbox(url: str | None, token: str | None) -> list[Finding]:
    async def ask() -> Capabilities:
        async with SandboxClient(url or SANDBOX_URL, token=token, deadline_s=DEADLINE_S) as sandbox:
            return await sandbox.capabilities()

    def describe(found: Capabilities) -> list[Finding]:
        broken = [probe for probe in found.probes if not probe.held]
        held = f"{len(found.probes) - len(broken)} of {len(found.probes)} held"
        return [
            Finding("  jail", "ok", f"{found.jail}: {', '.join(found.layers)}; {found.lanes} lanes"),
            Finding("  probes", "missing" if broken else "ok", held),
            *(Finding(f"    {probe.name}", "missing", probe.detail) for probe in broken),
        ]

    return _asked("sandbox", url, SANDBOX_URL, lambda: describe(run(ask())))


def _asked(room: str, url: str | None, default: str, ask: Callable[[], list[Finding]]) -> list[Finding]:
    """Ask one service. It is needed only if its URL was given."""
    started = time.monotonic()
    try:
        details = ask()
    except RoomError as error:
        return [Finding(room, "missing" if url else "absent", str(error))]
    return [
        Finding(room, "ok", f"{url or default} answered in {1000 * (time.monotonic() - started):.0f} ms"),
        *details,
    ]
