"""Which hardware to ask for, in which order, and what it costs. Reads the catalogue; makes nothing.

Stock changes between the catalogue and the request, so this only orders the candidates.
"""

from __future__ import annotations

from typing import NamedTuple

from runpod_deployer.api import Runpod
from runpod_deployer.deployment import Deployment, Role
from runpod_deployer.schemas import Availability, CpuType, GpuType
from shared.errors import InvalidRequest, Unavailable

_STOCK: dict[Availability, int] = {"HIGH": 0, "MEDIUM": 1, "LOW": 2, "NONE": 3}


class Candidate(NamedTuple):
    """One GPU type in one data center. `price` is dollars per hour of the whole pod."""

    gpu: str
    name: str
    data_center: str
    price: float
    stock: Availability


class NoCapacity(Unavailable):
    """Nothing that was asked for can be had now."""


def candidates(api: Runpod, wanted: Deployment, role: Role) -> list[Candidate]:
    """Return where a pod may go: the user's order of GPUs, else the cheapest first; then by stock.

    raises  InvalidRequest if no GPU fits what is wanted, NoCapacity if none that fits is in stock
    """
    count = wanted.gpu_count if role == "trainer" else 1
    kinds = [gpu for gpu in api.gpus(count, wanted.cloud) if _fits(gpu, wanted, count)]
    order = _order(kinds, wanted)
    if not order:
        least = f"NVIDIA, {wanted.min_gpu_gb} GB, {count} on one machine, {wanted.cloud}"
        price = f", at most {wanted.max_price:g} $/h" if wanted.max_price else ""
        raise InvalidRequest(
            f"no GPU in the catalogue is what was asked for ({least}{price})",
            hint="ask for less memory or fewer GPUs, or raise --max-price", field="gpus",
        )  # fmt: skip
    places = _places(api, wanted, role)
    found = [
        Candidate(gpu.id, gpu.name, place.id, _price(gpu, wanted) * count, place.availability)
        for gpu in order
        for place in sorted(gpu.data_centers, key=lambda place: _STOCK[place.availability])
        if place.availability != "NONE" and (places is None or place.id in places)
    ]
    if not found:
        names = ", ".join(gpu.name for gpu in order)
        raise NoCapacity(
            f"{role}: none of {names} is in stock where it may run",
            hint="try later, name other --gpus, or drop --data-centers",
        )
    return found


def flavors(api: Runpod, wanted: Deployment) -> list[CpuType]:
    """Return the CPU flavors of the sandbox's workers: the user's, else those with enough memory by price.

    raises  InvalidRequest if there is none
    """
    found = [cpu for cpu in api.cpus(wanted.vcpus) if cpu.vcpu.min <= wanted.vcpus <= cpu.vcpu.max]
    if wanted.cpus:
        known = {cpu.id: cpu for cpu in found}
        for name in wanted.cpus:
            if name not in known:
                raise InvalidRequest(
                    f"--cpus {name}: not in the catalogue with {wanted.vcpus} vCPUs",
                    hint=f"take one of {', '.join(sorted(known)) or 'none'}", field="cpus",
                )  # fmt: skip
        return [known[name] for name in wanted.cpus]
    usable = [cpu for cpu in found if cpu.ram_gb_per_vcpu >= 2]
    if not usable:
        raise InvalidRequest(
            f"no CPU flavor has {wanted.vcpus} vCPUs with 2 GB each", hint="take other --vcpus", field="vcpus"
        )
    return sorted(usable, key=lambda cpu: (cpu.price.serverless_per_vcpu, _STOCK[cpu.availability]))[:3]


def _fits(gpu: GpuType, wanted: Deployment, count: int) -> bool:
    secure = wanted.cloud == "SECURE"
    return (
        gpu.manufacturer == "NVIDIA"
        and (gpu.secure if secure else gpu.community)
        and (gpu.max_count.secure if secure else gpu.max_count.community) >= count
        and gpu.memory >= wanted.min_gpu_gb
        and (wanted.max_price is None or _price(gpu, wanted) <= wanted.max_price)
    )


def _price(gpu: GpuType, wanted: Deployment) -> float:
    return gpu.price.secure if wanted.cloud == "SECURE" else gpu.price.community


def _order(kinds: list[GpuType], wanted: Deployment) -> list[GpuType]:
    if not wanted.gpus:
        return sorted(kinds, key=lambda gpu: (_price(gpu, wanted), gpu.id))
    known = {key.lower(): gpu for gpu in kinds for key in (gpu.name, gpu.id)}
    for name in wanted.gpus:
        if name.lower() not in known:
            offered = ", ".join(sorted(gpu.name for gpu in kinds)) or "none"
            raise InvalidRequest(
                f"--gpus {name}: not in the catalogue, or not what else was asked for",
                hint=f"these are: {offered}", field="gpus",
            )  # fmt: skip
    return [known[name.lower()] for name in wanted.gpus]


def _places(api: Runpod, wanted: Deployment, role: Role) -> set[str] | None:
    """Return the data centers a pod may go to; None is all."""
    volume = role == "trainer" and wanted.volume_gb > 0
    network = wanted.decoder == "pod"
    if not (volume or network or wanted.data_centers):
        return None
    every = api.data_centers()
    unknown = sorted(set(wanted.data_centers) - {center.id for center in every})
    if unknown:
        raise InvalidRequest(
            f"--data-centers {unknown[0]}: no such data center",
            hint=f"take of {', '.join(sorted(center.id for center in every))}", field="data_centers",
        )  # fmt: skip
    return {
        center.id
        for center in every
        if (not wanted.data_centers or center.id in wanted.data_centers)
        and (not volume or center.network_volume_types)
        and (not network or center.global_network)
    }
