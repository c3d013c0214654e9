"""A small run that was really trained, with real services; and the page that shows it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from playground.app import create_app
from playground.settings import PlaygroundSettings
from trainer.supervise import Service

NAME = "trained"
TRAIN = [
    "train", "text", "--config", "starter-text.yaml", "--name", NAME, "--max-steps", "4", "--eval-steps", "2",
    "--save-steps", "4", "--batch-size", "8", "--train-tasks", "40", "--validation-tasks", "6",
    "--heldout-tasks", "4", "--logging-steps", "1",
]  # fmt: skip
# Shift of what is already on the page, as Lighthouse adds it up; 0 is none.
SHIFT = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The starter's decoder and a sandbox in the process jail, as processes."""
    logs = tmp_path_factory.mktemp("rooms")
    decoder = Service("decoder", logs / "decoder.log", {"DECODER_ENGINE": "hf"})
    sandbox = Service("sandbox", logs / "sandbox.log", {"SANDBOX_JAIL": "process"})
    for service in (decoder, sandbox):
        service.start()
    for service in (decoder, sandbox):
        service.wait_ready()
    yield SimpleNamespace(decoder=decoder.url, sandbox=sandbox.url)
    for service in (decoder, sandbox):
        service.stop()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A text run of four steps that was evaluated. Made once, whichever process of the tests comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "playground-runs"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / NAME / "evaluation.json").is_file():
            rooms = request.getfixturevalue("rooms")
            urls = ["--decoder-url", rooms.decoder, "--sandbox-url", rooms.sandbox]
            psuedoptimal(*TRAIN, "--runs", str(shared), *urls)
            psuedoptimal("evaluate", str(shared / NAME), "--n", "4", *urls)
    return shared / NAME


def psuedoptimal(*args: str) -> None:
    from trainer.cli import main

    assert main(args) == 0, args


@pytest.fixture
def runs(tmp_path: Path, trained: Path) -> Path:
    """A runs folder of the test's own, with a copy of the trained run in it."""
    shutil.copytree(trained, tmp_path / "runs" / NAME)
    return tmp_path / "runs"


@pytest.fixture
def serve(live: Callable[[Any], str]) -> Iterator[Callable[..., httpx.Client]]:
    """Serve a runs folder really, and give a client: `serve(runs, refresh_s=0.2)`."""
    clients = ExitStack()

    def start(folder: Path, **settings: Any) -> httpx.Client:
        url = live(create_app(made(folder, **settings)))
        client = httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60, trust_env=False)
        return clients.enter_context(client)

    with clients:
        yield start


def made(folder: Path, **settings: Any) -> PlaygroundSettings:
    """Settings whose services are not there, unless they are given."""
    absent = {"decoder_url": "http://127.0.0.1:9", "sandbox_url": "http://127.0.0.1:9"}
    return PlaygroundSettings(runs=folder, **{"refresh_s": 0.2, **absent, **settings})


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    # The shell without a window's parts takes half the time.
    names = ("chromium-headless-shell", "chromium", "chromium-browser")
    path = os.environ.get("PSUEDOPTIMAL_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not path:
        pytest.skip(f"no {names[0]} here; `apt-get install` it, or name a Chromium in PSUEDOPTIMAL_CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # Its own sandbox needs user namespaces that a container's root has not; it sees our pages only.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page of the playground in the browser, and everything that went wrong or out on the way."""

    page: Any
    url: str
    shots: Path | None
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def go(self, path: str) -> Any:
        self.page.goto(self.url + path)
        return self.page

    def shot(self, name: str) -> None:
        """Keep a picture, if anybody wants to look at it: it takes as long as the page's whole test."""
        if self.shots:
            self.page.screenshot(path=self.shots / f"{name}.png", full_page=True)

    def fits(self) -> bool:
        """Nothing scrolls sideways, once the page's style is there: a form's answer may be a new page."""
        self.page.wait_for_load_state()
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    def check(self) -> None:
        """No error on the console, no request but to the server itself, no sideways scrolling, no shift."""
        assert not self.errors
        assert {urlsplit(url).netloc for url in self.asked} == {urlsplit(self.url).netloc}
        assert self.fits()
        assert self.page.evaluate("window.hit === undefined")


@pytest.fixture
def visit(
    chromium: Any, serve: Callable[..., httpx.Client], runs: Path, rooms: SimpleNamespace
) -> Iterator[Callable[..., Visit]]:
    """Open a browser on a playground with its services: `visit(width=390, dark=True, script=False)`.

    Further arguments are settings of the playground: `visit(decoder_url=...)`.
    """
    wanted = os.environ.get("PSUEDOPTIMAL_SCREENSHOTS")
    shots = Path(wanted) if wanted else None
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    contexts = []

    def start(*, width: int = 1280, dark: bool = False, script: bool = True, **settings: Any) -> Visit:
        there = {"decoder_url": rooms.decoder, "sandbox_url": rooms.sandbox} | settings
        url = str(serve(runs, **there).base_url).rstrip("/")
        context = chromium.new_context(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light",
            java_script_enabled=script,
        )  # fmt: skip
        contexts.append(context)
        context.add_init_script(SHIFT)
        made = Visit(context.new_page(), url, shots)
        made.page.set_default_timeout(60_000)
        made.page.on("console", lambda said: made.errors.append(said.text) if said.type == "error" else None)
        made.page.on("pageerror", lambda error: made.errors.append(str(error)))
        made.page.on("request", lambda request: made.asked.append(request.url))
        return made

    yield start
    for context in contexts:
        context.close()
