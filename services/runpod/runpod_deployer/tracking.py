"""Keeps the journal and the account in step: what was asked for, what is there, what has gone.

Nothing is touched whose name is not in this journal, unless `down` is told to take the project's orphans too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runpod_deployer.api import KINDS, ApiRefused, Runpod
from runpod_deployer.deployment import ROLES, Role
from runpod_deployer.journal import Entry, Journal
from runpod_deployer.schemas import Kind, Resource

# For a request whose answer was lost: how often its name is looked for, the seconds between two looks, and
# the seconds after which it was never carried out.
LOOKS, LOOK_S, FORGET_S = 5, 2.0, 900.0
# A volume is let go some seconds after its pod.
DETACH_LOOKS, DETACH_S = 10, 3.0


class Row(NamedTuple):
    """One line of `status`; `cost` is dollars per hour, None where RunPod does not tell.

    state  tracked; unclear: asked for, not seen; orphan: seen, not in the journal
    """

    role: str
    kind: Kind
    state: str
    name: str
    id: str
    status: str
    cost: float | None
    hours: float | None


class Seen(NamedTuple):
    """What the account has under one of the project's names."""

    kind: Kind
    id: str
    status: str
    cost: float


class Tracker:
    """One project's journal and one account.

    say    gets one line per thing done
    pause  sleeps; for tests
    """

    def __init__(
        self, api: Runpod, journal: Journal, *, say: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.api, self.journal, self._say, self._pause = api, journal, say, pause

    def status(self) -> list[Row]:
        """Return everything of this project: in the journal, in the account, or both. Deletes nothing."""
        with self.journal.held():
            self._settle(looks=1)
            return self._rows()

    def down(self, *, volumes: bool, orphans: bool) -> list[Row]:
        """Delete what the journal holds, and return what is left. Volumes only if told: runs are on them."""
        with self.journal.held():
            self._settle()
            doomed = [entry for entry in self.journal.live() if volumes or entry.role != "volume"]
            # What uses something goes before it.
            self._delete(sorted(doomed, key=lambda entry: -ROLES.index(entry.role)))
            for row in self._rows() if orphans else []:
                if row.state == "orphan" and (volumes or row.kind != "volume"):
                    self._say(f"deleting orphan {row.kind} {row.id} ({row.name})")
                    self.api.delete(row.kind, row.id)
            return self._rows()

    def _settle(self, looks: int = LOOKS) -> None:
        """Bring the journal up to the account: find what lost answers were about, forget what is gone."""
        for look in range(looks):
            seen = self._seen()
            for entry in list(self.journal.entries.values()):
                there = seen.get(entry.name)
                if there is not None and (entry.gone or entry.id != there.id):
                    self._say(f"{entry.role}: found {entry.kind} {there.id} by its name")
                    self.journal.made(entry.name, there.id)
                elif there is None and not entry.gone:
                    self._miss(entry)
            if all(entry.id is not None for entry in self.journal.live()):
                return
            if look + 1 < looks:
                self._pause(LOOK_S)

    def _miss(self, entry: Entry) -> None:
        """Deal with an entry that no listing has. A listing may lag: only the resource's address is sure."""
        if entry.id is None:
            if time.time() - entry.at > FORGET_S:
                self.journal.gone(entry.name, "never appeared")
        elif self.api.get(entry.kind, entry.id) is None:
            self._say(f"{entry.role}: {entry.kind} {entry.id} is not there any more")
            self.journal.gone(entry.name, "vanished")

    def _seen(self) -> dict[str, Seen]:
        """Return what the account has under this project's prefix, by the name it was asked for under."""
        return {
            _asked_name(found): Seen(kind, found.id, found.status, found.cost)
            for kind in KINDS
            for found in self.api.every(kind)
            if found.name.startswith(self.journal.prefix) and found.status != "TERMINATED"
        }

    def _one(self, role: Role) -> Entry | None:
        """Return what there is in a role. What an answer that came late has doubled is deleted."""
        found = [entry for entry in self.journal.of(role) if entry.id is not None]
        self._delete(found[1:])
        return found[0] if found else None

    def _delete(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.id is None:
                continue
            self._say(f"{entry.role}: deleting {entry.kind} {entry.id}")
            for look in range(DETACH_LOOKS):
                try:
                    self.api.delete(entry.kind, entry.id)
                    break
                except ApiRefused as error:
                    last = look + 1 == DETACH_LOOKS
                    if last or entry.kind != "volume" or error.http not in (400, 409):
                        raise
                    self._pause(DETACH_S)
            self.journal.gone(entry.name, "deleted")

    def _rows(self) -> list[Row]:
        seen, now, rows = self._seen(), time.time(), []
        for entry in self.journal.live():
            there = seen.pop(entry.name, None)
            cost = there.cost if there and entry.kind == "pod" else None
            state = "unclear" if entry.id is None else "tracked"
            status, hours = there.status if there else "", (now - entry.at) / 3600
            rows.append(Row(entry.role, entry.kind, state, entry.name, entry.id or "", status, cost, hours))
        for name, there in seen.items():
            cost = there.cost if there.kind == "pod" else None
            rows.append(Row("", there.kind, "orphan", name, there.id, there.status, cost, None))
        return rows


def _asked_name(resource: Resource) -> str:
    """Return the name that was asked for: RunPod appends " -fb" to an endpoint's when it starts fast."""
    return resource.name.removesuffix(" -fb")
