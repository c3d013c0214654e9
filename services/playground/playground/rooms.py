"""The decoder and the sandbox as seen from here: are they there, what are they, how are they started."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from playground.settings import PlaygroundSettings
from shared.clients import DecoderClient, SandboxClient
from shared.errors import RequestRefused, RoomError
from shared.wire import Capabilities, ModelCard

FRESH_S, ASK_S, UNREACHABLE_S = 3.0, 3.0, 2.0


@dataclass(frozen=True)
class RoomState:
    """One service.

    reached  whether something answers there
    about    what it is, or why it cannot be used
    start    the command that starts it
    """

    room: str
    url: str
    ready: bool
    about: str
    reached: bool = False

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
        url = self._urls[room]
        client = self.decoder if room == "decoder" else self.sandbox
        try:
            async with asyncio.timeout(ASK_S):
                if not await client.ready():
                    return RoomState(room, url, False, "does not answer")
                about = (
                    _model(await self.decoder.model())
                    if room == "decoder"
                    else _jail(await self.sandbox.capabilities())
                )
                return RoomState(room, url, True, about, True)
        except TimeoutError:
            return RoomState(room, url, False, f"has not answered within {ASK_S:g} s")
        except RoomError as error:
            return RoomState(room, url, False, str(error), isinstance(error, RequestRefused))

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
    return f"jail {found.jail}, {held} of {len(found.probes)} attacks on it held off"
