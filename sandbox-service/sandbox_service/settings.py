"""What the sandbox reads from its environment, once: variables with the prefix SANDBOX_."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings

# Weakest first. A jail's name says which it is: `process` gives each run a uid of its own, which needs
# root; `process-same-uid` cannot, but has seccomp and Landlock; `rlimits` has neither (macOS).
# `docker` is a container by runc, `docker-gvisor` one by runsc.
Isolation = Literal["rlimits", "process-same-uid", "process", "bwrap", "docker", "docker-gvisor", "gvisor"]
STRENGTH: tuple[Isolation, ...] = get_args(Isolation)


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SandboxSettings(ServiceSettings):
    """Settings of the sandbox. No setting turns a layer of a jail off."""

    model_config = SettingsConfigDict(env_prefix="SANDBOX_", frozen=True, env_ignore_empty=True)

    port: int = Field(8002, ge=0, le=65535, description="port to listen on; 0 takes a free one and logs it")
    jail: Literal["auto", "gvisor", "docker", "bwrap", "process"] = Field(
        "auto", description="auto: the strongest that holds against its own probes on this machine"
    )
    min_isolation: Isolation = Field(
        "process-same-uid", description="refuse to work in a jail weaker than this one"
    )
    lanes: int = Field(
        default_factory=_processors, ge=1, le=64, description="programs that run at a time; unset: processors"
    )
    spares: int = Field(1, ge=0, le=16, description="warm lanes beside them, for those that die")
    recycle_runs: int = Field(1000, ge=1, le=1000, description="runs after which a lane is replaced")
    compile_ahead: bool = Field(
        True,
        description="one process compiles what waits for a lane; without it each run compiles its own",
    )
    queue_limit: int = Field(4000, ge=1, le=100_000, description="jobs that may wait; more are answered 429")
    queue_seconds: float = Field(
        120,
        gt=0,
        le=3600,
        description="seconds of work that may wait, by the last jobs; more is answered 429",
    )
    python: Path | None = Field(
        None, description="interpreter of the jails; unset: /usr/bin/pythonX.Y of this version, else this one"
    )
    uid_base: int = Field(20_000, ge=1000, le=50_000, description="first uid of runs, where root gives them")
    docker_host: str | None = Field(
        None,
        validation_alias=AliasChoices("SANDBOX_DOCKER_HOST", "DOCKER_HOST", "docker_host"),
        description="engine of the docker jail; whoever holds an engine is root on its machine",
    )
    docker_image: str = Field("python:3.11-slim", min_length=1, description="image of the docker jail")
    docker_runtime: Literal["runsc", "runc"] = Field("runsc", description="runtime of the docker jail")
    docker_memory_mb: int = Field(
        4096, ge=512, le=65_536, description="memory of a lane's container, behind each run's own limit"
    )
