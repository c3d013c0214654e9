"""Start the decoder and the sandbox as processes of their own, on free loopback ports, and end them again.

They are started by their module's name and spoken to over HTTP; nothing of them is imported. They die with
the process that started them, even if that one is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from shared.errors import Unavailable
from shared.ports import free_port
from shared.starting import load
from trainer.config import ConfigError

PR_SET_PDEATHSIG = 1
# The decoder may have to fetch its model first; a sandbox that has not found a jail by then finds none.
READY_S = {"decoder": 3600.0, "sandbox": 180.0}
STOP_S, POLL_S, TELL_S = 10.0, 0.1, 30.0
# A service's exit code for a setting that is wrong.
REFUSED = 2


class Service:
    """One service process.

    room         decoder or sandbox
    log          the file its output goes to
    environment  added to ours, e.g. {"DECODER_MODEL": ...}
    """

    def __init__(
        self, room: str, log: Path, environment: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        self.room, self.log, self.port = room, log, port or free_port()
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process; `wait_ready` waits for it."""
        prefix = self.room.upper()
        own = {f"{prefix}_HOST": "127.0.0.1", f"{prefix}_PORT": str(self.port), "OMP_NUM_THREADS": "1",
               "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the trainer, which still needs its services.
            self.process = subprocess.Popen(
                command(self.room), env={**os.environ, **own, **self.environment}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until it takes requests, and say so from time to time.

        raises  ConfigError if it refuses a setting; Unavailable, quoting its log, if it ends otherwise or
                takes too long
        """
        start, told, limit = time.monotonic(), 0.0, timeout_s or READY_S[self.room]
        assert self.process is not None
        # What answers at the port of a process that has ended is somebody else's.
        while not is_ready(self.url) or self.process.poll() is not None:
            waited = time.monotonic() - start
            if self.process.poll() == REFUSED:
                raise ConfigError(f"the {self.room} cannot be started so: {self.last_words()}")
            if self.process.poll() is not None:
                what = f"the {self.room} ended with code {self.process.returncode}"
                raise Unavailable(f"{what}: {self.tail()}", hint=f"see {self.log}")
            if waited > limit:
                what = f"the {self.room} is not ready after {limit:g} s"
                raise Unavailable(f"{what}: {self.tail()}", hint=f"see {self.log}")
            if waited - told > TELL_S:
                print(f"waiting for the {self.room} ({waited:.0f} s); see {self.log}", file=sys.stderr)
                told = waited
            time.sleep(POLL_S)

    def tail(self, lines: int = 3) -> str:
        """Return the end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])

    def last_words(self) -> str:
        """Return the last line it wrote for people."""
        said = [line for line in self.tail(50).splitlines() if line.strip() and not line.startswith("{")]
        return said[-1] if said else self.tail()

    def stop(self) -> None:
        """End it: drain, then kill. A service that is not running is left alone."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def decoder_environment(generator_model: str | None) -> dict[str, str]:
    """Return the decoder's variables for a generator: None or `starter` is its own, `echo` is no model."""
    match generator_model:
        case None | "starter":
            return {}
        case "echo":
            return {"DECODER_ENGINE": "echo"}
        case model:
            return {"DECODER_ENGINE": "hf", "DECODER_MODEL": model}


def command(room: str) -> list[str]:
    """Return the command that serves a room."""
    return [sys.executable, "-m", room if room == "playground" else f"{room}_service"]


def serve_page(room: str, usual: Mapping[str, str]) -> int:
    """Serve a page beside the services that it needs and nobody runs, until it ends; then end them too.

    The page is told by its environment where they are and which log is theirs. Nothing is waited for.

    room     the page's module; a service that ROOM_DECODER_URL or _TOKEN_FILE is about is not started
    usual    by room, where one is expected that was started by hand
    returns  the page's exit code
    """
    prefix = room.upper()
    with contextlib.ExitStack() as stack:
        pages: list[subprocess.Popen[bytes]] = []
        stack.enter_context(_passed_on(pages))
        environment: dict[str, str] = {}
        for needed, url in usual.items():
            variable = f"{prefix}_{needed.upper()}"
            named = os.environ.get(f"{variable}_URL") or os.environ.get(f"{variable}_TOKEN_FILE")
            if named or is_open(url, needed):
                continue
            logs = stack.enter_context(tempfile.TemporaryDirectory(prefix="psuedoptimal-"))
            service = Service(needed, Path(logs) / f"{needed}.log")
            stack.callback(service.stop)
            service.start()
            environment |= {f"{variable}_URL": service.url, f"{variable}_LOG": str(service.log)}
            print(f"{needed}: starting one at {service.url}; its log is {service.log}", file=sys.stderr)
        # A session of its own: Ctrl-C reaches this process alone, which passes it on once; a second signal
        # would cut the clean-up short, as do the death signals of a parent with several threads.
        page = subprocess.Popen(
            command(room), env={**os.environ, **environment}, start_new_session=True,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        pages.append(page)
        code = page.wait()
        return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passed_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Send the signals that would end this process to others; while there are none, end in order."""

    def pass_on(number: int, _: object) -> None:
        if not processes:
            raise SystemExit(128 + number)
        for process in processes:
            process.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_ready(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a service takes requests."""
    try:
        return _ask(f"{url}/readyz", timeout_s).status_code == 200
    except httpx.HTTPError:
        return False


def is_open(url: str, room: str, timeout_s: float = 2.0) -> bool:
    """Whether a room takes requests there from somebody without a token."""
    path = {"decoder": "/v1/model", "sandbox": "/v1/capabilities"}[room]
    try:
        return _ask(url + path, timeout_s).status_code == 200
    except httpx.HTTPError:
        return False


def _ask(url: str, timeout_s: float) -> httpx.Response:
    """Send a GET to a service on this machine; plain HTTP, so no certificates are read at each look."""
    return httpx.get(url, timeout=timeout_s, trust_env=False, verify=False)


def _die_with_parent() -> None:
    """Runs in the child, before exec: a trainer that is killed leaves no services behind (Linux only)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def services(
    logs: Path, generator_model: str | None, decoder_url: list[str] | None, sandbox_url: list[str] | None,
    decoders: int = 1, meanwhile: str = "",
) -> Iterator[tuple[list[str], list[str]]]:  # fmt: skip
    """Give the URLs of both services, starting those that are not given.

    decoders   how many decoders are started; a batch is split over them
    meanwhile  a module that is imported while those that are started come up
    raises     Unavailable if one that is started does not come up
    """
    with contextlib.ExitStack() as stack:
        started: list[Service] = []

        def add(room: str, name: str, own: Mapping[str, str] | None = None) -> None:
            """Add a service at a port that none of the others, which are not bound yet, was given."""
            made = Service(room, logs / name, own)
            while made.port in {other.port for other in started}:
                made = Service(room, logs / name, own)
            started.append(made)

        if not decoder_url:
            for number in range(1, decoders + 1):
                name = "decoder.log" if number == 1 else f"decoder-{number}.log"
                add("decoder", name, decoder_environment(generator_model))
        if not sandbox_url:
            add("sandbox", "sandbox.log")
        for service in started:
            stack.callback(service.stop)
            service.start()
        if started and meanwhile:
            load(meanwhile)
        for service in started:
            service.wait_ready()
        made = {room: [one.url for one in started if one.room == room] for room in ("decoder", "sandbox")}
        yield decoder_url or made["decoder"], sandbox_url or made["sandbox"]
