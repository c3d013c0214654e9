"""What `up` would do: the bodies it would send, and what they cost. Reads the catalogue; makes nothing."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from runpod_deployer import catalogue
from runpod_deployer.api import Runpod
from runpod_deployer.catalogue import Candidate
from runpod_deployer.deployment import (
    Deployment,
    Role,
    Terms,
    decoder_body,
    endpoint_body,
    masked,
    trainer_body,
    volume_body,
)
from runpod_deployer.schemas import Body

_AT = "set by up"


class Step(NamedTuple):
    """One create. `hourly` is dollars per hour, None where the catalogue has no price."""

    role: Role
    path: str
    body: dict[str, object]
    candidates: list[Candidate]
    hourly: float | None
    most: float | None


class Plan(NamedTuple):
    """All of them, in order."""

    wanted: Deployment
    steps: list[Step]

    @property
    def hourly(self) -> float:
        """Dollars per hour while it runs, with the first candidates and one sandbox worker."""
        return sum(step.hourly or 0.0 for step in self.steps)

    @property
    def most(self) -> float:
        """Dollars per hour with the dearest candidates and all sandbox workers."""
        return sum(step.most or 0.0 for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return the plan for machines."""
        steps = [
            {**step._asdict(), "candidates": [at._asdict() for at in step.candidates]} for step in self.steps
        ]
        hours = self.wanted.max_hours
        return {
            "steps": steps, "hourly": self.hourly, "hourly_most": self.most, "max_hours": hours,
            "total_most": self.most * hours,
        }  # fmt: skip

    def as_text(self) -> str:
        """Return the plan for a person."""
        lines = []
        for step in self.steps:
            lines += [f"{step.role}: POST {step.path}", json.dumps(step.body, indent=2)]
            for number, at in enumerate(step.candidates, 1):
                lines.append(
                    f"  {number:>2}. {at.name:<24}{at.data_center:<12}{at.stock:<8}{at.price:.2f} $/h"
                )
            price = "not in the catalogue" if step.hourly is None else f"{step.hourly:.2f} $/h"
            if step.most is not None and step.most != step.hourly:
                price += f", at most {step.most:.2f} $/h"
            lines += [f"  {price}", ""]
        hours = self.wanted.max_hours
        lines.append(
            f"{self.hourly:.2f} $/h with the first candidates, at most {self.most:.2f} $/h; the pods stop "
            f"themselves after {hours:g} h: at most {self.most * hours:.2f} $ for computing. Disks and the "
            "volume are billed besides; their prices are not in the catalogue. Nothing was made."
        )
        return "\n".join(lines)


def make(api: Runpod, wanted: Deployment) -> Plan:
    """Return the plan. Raises what catalogue.candidates raises."""
    return Plan(wanted, [_step(api, wanted, role) for role in wanted.roles])


def _step(api: Runpod, wanted: Deployment, role: Role) -> Step:
    name, terms = f"psd-{wanted.project}-{role}-({_AT})", Terms(f"({_AT})", f"({_AT})")
    if role == "sandbox":
        flavors = catalogue.flavors(api, wanted)
        body: Body = endpoint_body(wanted, name, [cpu.id for cpu in flavors])
        prices = [cpu.price.serverless_per_vcpu * wanted.vcpus for cpu in flavors]
        most = max(prices) * wanted.sandbox_workers
        return Step(role, "/v2/serverless", masked(body.to_json()), [], prices[0], most)
    at = catalogue.candidates(api, wanted, "trainer" if role == "volume" else role)
    first, dearest = at[0], max(candidate.price for candidate in at)
    if role == "volume":
        body = volume_body(wanted, name, first.data_center)
        return Step(role, "/v2/network-volumes", body.to_json(), [], None, None)
    if role == "decoder":
        body = decoder_body(wanted, terms, name, first.gpu, first.data_center)
    else:
        body = trainer_body(
            wanted, terms, name, first.gpu, first.data_center,
            volume_id=f"({_AT})" if wanted.volume_gb else None,
            decoder_id=f"({_AT})" if wanted.decoder == "pod" else None,
            endpoint_id=f"({_AT})" if wanted.sandbox == "endpoint" else None,
        )  # fmt: skip
    return Step(role, "/v2/pods", masked(body.to_json()), at, first.price, dearest)
