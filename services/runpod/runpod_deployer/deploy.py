"""`up`: makes what a deployment needs, and never loses sight of what it has made.

Before each create its name is in the journal, after it its id. A name is used for one request only, so a
request whose answer was lost is found again by listing, and one that was carried out late is deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import NamedTuple

from runpod_deployer import catalogue
from runpod_deployer.api import ApiRefused, Unclear
from runpod_deployer.catalogue import Candidate, NoCapacity
from runpod_deployer.deployment import (
    KIND,
    Deployment,
    Role,
    Terms,
    decoder_body,
    endpoint_body,
    resource_name,
    trainer_body,
    volume_body,
)
from runpod_deployer.journal import Entry
from runpod_deployer.schemas import Body
from runpod_deployer.tracking import Tracker
from shared.errors import Broken, InvalidRequest, Overloaded, RequestRefused, Unavailable

# 400 is both «no capacity» and «breaks a rule», 403 a pool that this account may not use: another may do.
NEXT = (400, 403)
# How often a request is sent anew, under a new name, when nobody can tell what became of the one before.
ATTEMPTS = 3


class Placed(NamedTuple):
    """The trainer's pod, and the volume in the same data center, if one was wanted."""

    trainer: Entry
    volume: Entry | None


class Deployer(Tracker):
    """Makes what is missing."""

    def up(self, wanted: Deployment) -> None:
        """Make what is missing. Called again, it makes nothing twice.

        raises  RequestRefused or NoCapacity: what this call had made is deleted again
                another NoAnswer: what was made stays and is in the journal; call again, or `down`
        """
        with self.journal.held():
            self._settle()
            terms = self._terms(wanted)
            before = {entry.name for entry in self.journal.live()}
            try:
                self._all(wanted, terms)
            except (RequestRefused, NoCapacity) as error:
                new = [entry for entry in self.journal.live() if entry.name not in before]
                if new:
                    self._say(f"failed: {error}")
                    self._say("deleting what this call has made")
                    self._delete(list(reversed(new)))
                raise
            self._settle(looks=1)
            for role in wanted.roles:
                self._one(role)

    def _terms(self, wanted: Deployment) -> Terms:
        """Return the terms of the deployment that runs, or begin a new one.

        raises  InvalidRequest if another one runs
        """
        asked = wanted.model_dump(mode="json")
        old = self.journal.deployment
        if old and any(entry.role != "volume" for entry in self.journal.live()):
            if old["wanted"] != asked:
                changed = sorted(key for key in asked if asked[key] != old["wanted"].get(key))
                raise InvalidRequest(
                    f"project {wanted.project} runs with other settings ({', '.join(changed)})",
                    hint=f"`psuedoptimal runpod down --project {wanted.project}`, or another --project",
                )
            return Terms(old["token"], old["deadline"])
        deadline = datetime.now(timezone.utc) + timedelta(hours=wanted.max_hours)
        terms = Terms(secrets.token_urlsafe(32), deadline.isoformat(timespec="seconds"))
        self.journal.deploy({"wanted": asked, "token": terms.token, "deadline": terms.deadline})
        return terms

    def _all(self, wanted: Deployment, terms: Terms) -> None:
        found: dict[Role, Entry] = {}
        for role in wanted.roles:
            there = self._one(role) if role != "volume" else None
            if there:
                self._say(f"{role}: {there.id} is there")
                found[role] = there
            elif role == "sandbox":
                flavors = [cpu.id for cpu in catalogue.flavors(self.api, wanted)]
                found[role] = self._create(role, partial(endpoint_body, wanted, flavors=flavors))
            elif role == "decoder":
                places = catalogue.candidates(self.api, wanted, role)
                found[role] = self._first(role, places, partial(decoder_body, wanted, terms))
            elif role == "trainer":
                self._place_trainer(wanted, terms, found)

    def _place_trainer(self, wanted: Deployment, terms: Terms, others: dict[Role, Entry]) -> Placed:
        """Make the trainer's pod, and its volume where the pod is; without a place for both, none stays."""
        ids = {role: entry.id for role, entry in others.items()}
        make = partial(
            trainer_body, wanted, terms, decoder_id=ids.get("decoder"), endpoint_id=ids.get("sandbox")
        )
        every = catalogue.candidates(self.api, wanted, "trainer")
        if not wanted.volume_gb:
            return Placed(self._first("trainer", every, make), None)
        volume = self._one("volume")
        if volume:
            home = next(found.data_center for found in self.api.every("volume") if found.id == volume.id)
            every = [candidate for candidate in every if candidate.data_center == home]
            if not every:
                raise NoCapacity(
                    f"trainer: nothing that fits is in stock in {home}, where the volume {volume.id} is",
                    hint="try later, or `down --volumes` to give the volume up with the runs on it",
                )
            return Placed(self._first("trainer", every, partial(make, volume_id=volume.id)), volume)
        refused = NoCapacity("trainer: no candidate")
        for center in dict.fromkeys(candidate.data_center for candidate in every):
            here = [candidate for candidate in every if candidate.data_center == center]
            try:
                volume = self._create("volume", partial(volume_body, wanted, data_center=center))
            except ApiRefused as error:
                if error.http not in NEXT:
                    raise
                refused = NoCapacity(f"volume: {error}")
                continue
            try:
                return Placed(self._first("trainer", here, partial(make, volume_id=volume.id)), volume)
            except NoCapacity as error:
                refused = error
                self._delete([volume])
        raise refused

    def _first(
        self, role: Role, candidates: Sequence[Candidate], body: Callable[[str, str, str], Body]
    ) -> Entry:
        """Try the candidates in order until one is placed. Raises NoCapacity with the last refusal."""
        last = ""
        for at in candidates:

            def here(name: str, at: Candidate = at) -> Body:
                return body(name, at.gpu, at.data_center)

            try:
                entry = self._create(role, here)
            except ApiRefused as error:
                if error.http not in NEXT:
                    raise
                last = error.detail
                self._say(f"{role}: {at.name} in {at.data_center} refused")
            else:
                self._say(f"{role}: {at.name} in {at.data_center}, {at.price:.2f} $/h")
                return entry
        raise NoCapacity(
            f"{role}: none of {len(candidates)} candidates could be placed; the last answer: {last}",
            hint="if every candidate gets the same answer, it is about the request; else try later",
        )

    def _create(self, role: Role, body: Callable[[str], Body]) -> Entry:
        """Create one resource: the name on disk, the request, the id on disk.

        raises  ApiRefused, Overloaded, Unavailable: not made. Unclear, Broken: not seen, may still appear
        """
        kind, tries = KIND[role], 0
        while True:
            name, tries = resource_name(self.journal.project, role), tries + 1
            self.journal.intend(role, kind, name)
            try:
                made = self.api.create(kind, body(name))
            except (ApiRefused, Overloaded, Unavailable):
                self.journal.gone(name, "refused")
                raise
            except (Unclear, Broken) as error:
                self._say(f"{role}: {error}; looking for {name}")
                self._settle()
                if self.journal.entries[name].id is None:
                    if tries == ATTEMPTS:
                        raise
                    continue
            else:
                self.journal.made(name, made.id)
            entry = self.journal.entries[name]
            self._say(f"{role}: made {kind} {entry.id}")
            return entry
