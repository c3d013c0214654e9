"""Every combination of overlays that the README names is valid, and hardened as a whole."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from .conftest import Stack

pytestmark = [pytest.mark.docker, pytest.mark.slow]

OVERLAYS = ("gpu", "vllm", "tgi")
# Other people's images that write where they like; the rest holds for them too.
WRITABLE = {"vllm", "tgi"}
COMBINATIONS = [
    chosen
    for size in range(len(OVERLAYS) + 1)
    for chosen in itertools.combinations(OVERLAYS, size)
    if not {"vllm", "tgi"} <= set(chosen)
]


def resolved(project: Stack, chosen: tuple[str, ...]) -> dict[str, Any]:
    files = [f"services/{name}/docker-compose.yml" for name in chosen]
    found = json.loads(project.compose("--profile", "*", "config", "--format", "json", files=files))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("chosen", COMBINATIONS, ids="+".join)
def test_every_combination_is_valid_and_hardened(project: Stack, chosen: tuple[str, ...]) -> None:
    config = resolved(project, chosen)
    for name, service in config["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged") and not service.get("devices") and not service.get("cap_add"), (
            name
        )
        assert "host" not in (service.get("network_mode"), service.get("ipc"), service.get("pid")), name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", (name, port)
        for volume in service.get("volumes", []):
            assert "docker.sock" not in volume["source"], name
        if name not in WRITABLE:
            assert service["read_only"] is True and service["user"] == "65532:65532", name
            assert service["mem_limit"] and service["pids_limit"], name
    networks = {name: set(service.get("networks", {})) for name, service in config["services"].items()}
    assert not networks["decoder-service"] & networks["sandbox-service"]
    inner = {name for name, network in config["networks"].items() if network.get("internal")}
    for name in ("trainer", "decoder-service", "sandbox-service"):
        assert networks[name] and networks[name] <= inner, name
    assert [name for name, found in networks.items() if "hub" in found] == ["models"]


def test_the_overlays_change_what_they_are_for(project: Stack) -> None:
    gpu = resolved(project, ("gpu",))["services"]
    for name in ("trainer", "decoder-service"):
        (device,) = gpu[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        assert (
            gpu[name]["build"]["args"]["EXTRAS"] == ",cuda" and not gpu[name]["build"]["args"]["TORCH_INDEX"]
        )
    assert gpu["decoder-service"]["environment"]["DECODER_QUANTIZATION"] == "nf4"
    assert "gpus" not in gpu["sandbox-service"] and "deploy" not in gpu["sandbox-service"]
    for name in ("vllm", "tgi"):
        remote = resolved(project, ("gpu", name))["services"]
        assert remote["decoder-service"]["environment"]["DECODER_ENGINE"] == "remote"
        assert set(remote[name]["networks"]) == {"decoder"}
        assert remote["trainer"]["command"] == ["demo", "--config", "psuedoptimal.yaml"]
