"""The decoder and the sandbox as seen from here: are they there, what are they, how are they started."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from playground.settings import PlaygroundSettings
from shared.clients import DecoderClient, SandboxClient
from shared.errors import RequestRefused, RoomError
from shared.wire import Capabilities, ModelCard, Problem

FRESH_S, ASK_S, UNREACHABLE_S = 3.0, 3.0, 2.0
# A service listens 3 to 12 s after its start on two busy cores, and has loaded some seconds later.
START_S = 60.0


Word = Literal["ready", "starting", "not ready", "refuses", "not there"]


@dataclass(frozen=True)
class RoomState:
    """One service.

    word   what it is: `starting` as long as it may just have been started, `refuses` without a token
    about  more of that: its model or jail, or why it cannot be used
    log    of one that was started with this page
    start  the command that starts it
    """

    room: str
    url: str
    word: Word
    about: str
    log: Path | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be used."""
        return self.word == "ready"

    @property
    def start(self) -> str:
        """The command that starts it where the playground looks for it."""
        port = self.url.rpartition(":")[2].strip("/")
        usual = {"decoder": "8001", "sandbox": "8002"}[self.room]
        return f"psuedoptimal serve {self.room}" + (
            f" --port {port}" if port.isdigit() and port != usual else ""
        )


class Rooms:
    """The two clients, and what is known of their services."""

    def __init__(self, settings: PlaygroundSettings) -> None:
        tokens = {room: settings.room_token(room) for room in ("decoder", "sandbox")}
        secrets = {room: token.get_secret_value() if token else None for room, token in tokens.items()}
        self.decoder = DecoderClient(
            settings.decoder_url,
            token=secrets["decoder"],
            deadline_s=settings.deadline_s,
            unreachable_s=UNREACHABLE_S,
        )
        self.sandbox = SandboxClient(
            settings.sandbox_url,
            token=secrets["sandbox"],
            deadline_s=settings.deadline_s,
            unreachable_s=UNREACHABLE_S,
        )
        self._logs = {"decoder": settings.decoder_log, "sandbox": settings.sandbox_log}
        # When each was first seen not to be ready; one that has been ready starts no more.
        self._since: dict[str, float] = {}
        self._urls = {"decoder": settings.decoder_url, "sandbox": settings.sandbox_url}
        self._known: tuple[float, list[RoomState]] = (-FRESH_S, [])
        self._asking = asyncio.Lock()

    async def states(self) -> list[RoomState]:
        """Return how the decoder and the sandbox are, as of some seconds ago at most. Never raises."""
        async with self._asking:
            when, found = self._known
            if time.monotonic() - when > FRESH_S:
                found = list(await asyncio.gather(self._state("decoder"), self._state("sandbox")))
                self._known = (time.monotonic(), found)
            return found

    async def _state(self, room: str) -> RoomState:
        url, log = self._urls[room], self._logs[room]
        client = self.decoder if room == "decoder" else self.sandbox
        try:
            async with asyncio.timeout(ASK_S):
                if not await client.ready():
                    return await self._not_ready(room)
                about = (
                    _model(await self.decoder.model())
                    if room == "decoder"
                    else _jail(await self.sandbox.capabilities())
                )
                self._since[room] = -math.inf
                return RoomState(room, url, "ready", about)
        except TimeoutError:
            return RoomState(room, url, "not there", f"has not answered within {ASK_S:g} s", log)
        except RoomError as error:
            word: Word = "refuses" if isinstance(error, RequestRefused) else "not there"
            return RoomState(room, url, word, str(error), log)

    async def _not_ready(self, room: str) -> RoomState:
        """Tell one that is starting from one that is not there: the first says on /readyz what is missing."""
        url, log = self._urls[room], self._logs[room]
        now = time.monotonic()
        lately = now - self._since.setdefault(room, now) < START_S
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:
                about = Problem.model_validate_json((await client.get(f"{url}/readyz")).content).detail
        except (httpx.HTTPError, ValueError):
            if log and lately:
                return RoomState(room, url, "starting", "does not listen yet", log)
            return RoomState(room, url, "not there", "does not answer", log)
        starting = lately and "draining" not in about
        return RoomState(room, url, "starting" if starting else "not ready", about, log)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await asyncio.gather(self.decoder.aclose(), self.sandbox.aclose())


def _model(card: ModelCard) -> str:
    parts = [card.name]
    if card.parameters:
        parts.append(f"{card.parameters / 1e6:.3g} M parameters")
    if card.quantization != "none":
        parts.append(card.quantization)
    return ", ".join([*parts, card.device])


def _jail(found: Capabilities) -> str:
    held = sum(probe.held for probe in found.probes)
    return f"jail {found.jail}, it stood {held} of {len(found.probes)} probes"
