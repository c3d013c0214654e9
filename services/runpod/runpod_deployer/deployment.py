"""What is to run on RunPod, and the bodies that say so. Pure: reads no catalogue and sends nothing.

The layouts:
    one pod                trainer, decoder and sandbox in one GPU pod; the sandbox in its process jail
    --decoder pod          the decoder in a GPU pod of its own, reached over the account's private network
    --sandbox endpoint     the sandbox on CPU workers behind a load balancer, away from weights and tokens
"""

from __future__ import annotations

import secrets
import shlex
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runpod_deployer.schemas import (
    Cpu,
    EndpointBody,
    Gpu,
    Kind,
    Mounts,
    NetworkMount,
    PodBody,
    RequestCount,
    VolumeBody,
    Workers,
)

Role = Literal["volume", "sandbox", "decoder", "trainer"]
ROLES: tuple[Role, ...] = ("volume", "sandbox", "decoder", "trainer")
KIND: dict[Role, Kind] = {"volume": "volume", "sandbox": "endpoint", "decoder": "pod", "trainer": "pod"}
WORKSPACE = "/workspace"
DECODER_PORT, SANDBOX_PORT = 8001, 8002
# What the deployer itself says to a pod; a user's --env cannot.
RESERVED = ("POD_", "RUNPOD_", "DECODER_TOKEN", "SANDBOX_TOKEN", "PORT")
Line = Annotated[str, Field(pattern=r"^[^\r\n\x00]*$", max_length=4000)]


class Terms(NamedTuple):
    """Fixed when a deployment begins: the decoder's token, and when the pods stop themselves (ISO 8601)."""

    token: str
    deadline: str


class Deployment(BaseModel):
    """Everything `up` needs to know. Amounts in GB, prices in dollars per hour."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    project: str = Field("lab", pattern=r"^[a-z][a-z0-9]{0,19}$", description="part of every name made")
    command: list[Line] = Field(min_length=1, description="arguments of `psuedoptimal` in the trainer's pod")
    image: str = Field(min_length=1, description="the all-in-one image, in a registry RunPod can reach")
    sandbox_image: str | None = Field(None, min_length=1, description="image of the sandbox's endpoint")
    registry: str | None = Field(
        None, min_length=1, description="id of a registry credential, for private images"
    )
    generator_model: str = Field(
        "Qwen/Qwen2.5-Coder-1.5B-Instruct", pattern=r"^[^\s]+$",
        description="the frozen decoder's model: hub name, or `starter` for its own",
    )  # fmt: skip
    decoder: Literal["colocated", "pod"] = Field("colocated", description="where the decoder runs")
    sandbox: Literal["colocated", "endpoint"] = Field("colocated", description="where the sandbox runs")
    sandbox_secret: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="RunPod secret with an API key that may call serverless endpoints and nothing else",
    )  # fmt: skip
    gpus: list[str] = Field([], description="GPU ids or names, first choice first; none: all, cheapest first")
    gpu_count: int = Field(1, ge=1, le=8, description="GPUs of the trainer's pod")
    accelerate: Literal["multi_gpu", "fsdp", "deepspeed"] = Field(
        "multi_gpu", description="how several GPUs train: trainer/configs/accelerate"
    )
    min_gpu_gb: int = Field(24, ge=1, le=1024, description="least memory of a GPU")
    max_price: float | None = Field(None, gt=0, description="most that one GPU may cost per hour")
    cloud: Literal["SECURE", "COMMUNITY"] = Field("SECURE", description="whose machines")
    data_centers: list[str] = Field([], description="where it may run; none: anywhere")
    min_cuda: str | None = Field(None, pattern=r"^\d+\.\d+$", description="least CUDA version of the host")
    disk_gb: int = Field(40, ge=1, le=4096, description="container disk, lost with the pod")
    volume_gb: int = Field(
        50, ge=0, le=4096, description="network volume on /workspace; 0: none, runs are lost"
    )
    cpus: list[str] = Field([], description="CPU flavors of the endpoint, in this order; none: the cheapest")
    vcpus: Literal[2, 4, 8, 16, 32] = Field(4, description="vCPUs of one sandbox worker")
    sandbox_workers: int = Field(3, ge=1, le=100, description="most workers of the endpoint; one always runs")
    max_hours: float = Field(24.0, gt=0, le=720, description="after this the pods stop themselves")
    env: dict[str, Line] = Field({}, description="variables of the trainer's and the decoder's pod")
    secrets: dict[str, str] = Field(
        {}, description="variables whose values are RunPod secrets: {NAME: SECRET}"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Deployment:
        if self.volume_gb and self.volume_gb < 10:
            raise ValueError(
                f"volume_gb={self.volume_gb}: a network volume has at least 10 GB, or 0 for none"
            )
        if self.sandbox == "endpoint" and not self.sandbox_secret:
            raise ValueError(
                "sandbox=endpoint: name a RunPod secret with --sandbox-secret; its value is an API key of "
                "this account that may call serverless endpoints only"
            )
        if self.decoder == "pod" and self.cloud != "SECURE":
            raise ValueError("decoder=pod: only the SECURE cloud has the private network between pods")
        if self.volume_gb and self.cloud != "SECURE":
            raise ValueError(
                "cloud=COMMUNITY: it has no network volumes; add --volume-gb 0, runs are lost then"
            )
        for name in [*self.env, *self.secrets]:
            if name.startswith(RESERVED) or not name.replace("_", "a").isalnum() or name[0].isdigit():
                raise ValueError(
                    f"variable {name!r}: the deployer sets it itself, or it is no variable's name"
                )
        if both := sorted(set(self.env) & set(self.secrets)):
            raise ValueError(f"variable {both[0]!r} is both a value and a secret; give it once")
        if len(self.env) + len(self.secrets) > 35:
            raise ValueError("more than 35 variables: RunPod takes 50 of a pod, and some are ours")
        return self

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles this layout has, in the order in which they must be made."""
        wanted = {
            "volume": self.volume_gb > 0, "sandbox": self.sandbox == "endpoint",
            "decoder": self.decoder == "pod", "trainer": True,
        }  # fmt: skip
        return tuple(role for role in ROLES if wanted[role])


def resource_name(project: str, role: Role) -> str:
    """Return a name that no other request has."""
    return f"psd-{project}-{role}-{secrets.token_hex(4)}"


def volume_body(wanted: Deployment, name: str, data_center: str) -> VolumeBody:
    """Return the body of the volume that keeps runs and downloaded models."""
    return VolumeBody(name=name, size=wanted.volume_gb, data_center=data_center)


def endpoint_body(wanted: Deployment, name: str, flavors: list[str]) -> EndpointBody:
    """Return the body of the sandbox's endpoint.

    The load balancer asks for an API key as bearer token, and the sandbox for its own: one header holds both,
    so that key is the sandbox's token. Programs in its jail cannot read it.
    """
    port = str(SANDBOX_PORT)
    secret = f"{{{{ RUNPOD_SECRET_{wanted.sandbox_secret} }}}}"
    env = {
        "PORT": port, "PORT_HEALTH": port, "HEALTH_CHECK_PATH": "/readyz",
        "SANDBOX_HOST": "0.0.0.0", "SANDBOX_PORT": port, "SANDBOX_TOKEN": secret,
    }  # fmt: skip
    own = wanted.sandbox_image is not None
    return EndpointBody(
        name=name, image=wanted.sandbox_image or wanted.image, args=None if own else "sandbox", env=env,
        ports=[f"{port}/http"], disk=10 if own else wanted.disk_gb, registry=wanted.registry,
        cpu=[Cpu(id=flavor, vcpu_count=wanted.vcpus) for flavor in flavors],
        # One request carries a step's programs, so two at a time keep a worker busy.
        scaling=RequestCount(request_count=2), workers=Workers(min=1, max=wanted.sandbox_workers),
    )  # fmt: skip


def decoder_body(wanted: Deployment, terms: Terms, name: str, gpu: str, data_center: str) -> PodBody:
    """Return the body of the decoder's pod: no public port, a token, and the private network."""
    env = {
        **_given(wanted), "POD_DEADLINE": terms.deadline,
        "DECODER_HOST": "0.0.0.0", "DECODER_PORT": str(DECODER_PORT), "DECODER_TOKEN": terms.token,
    }  # fmt: skip
    return PodBody(
        name=name, image=wanted.image, args="decoder", env=env, cloud=wanted.cloud, disk=wanted.disk_gb,
        gpu=Gpu(id=gpu, min_cuda_version=wanted.min_cuda), data_center_ids=[data_center],
        registry=wanted.registry, global_networking=True,
    )  # fmt: skip


def trainer_body(
    wanted: Deployment, terms: Terms, name: str, gpu: str, data_center: str, *,
    volume_id: str | None = None, decoder_id: str | None = None, endpoint_id: str | None = None,
) -> PodBody:  # fmt: skip
    """Return the body of the trainer's pod. What it is not told the address of, it runs itself."""
    env = {**_given(wanted), "POD_DEADLINE": terms.deadline, "POD_WORKSPACE": WORKSPACE}
    if wanted.gpu_count > 1:
        env |= {"POD_PROCESSES": str(wanted.gpu_count), "POD_ACCELERATE": wanted.accelerate}
    if decoder_id:
        env |= {"DECODER_TOKEN": terms.token, "POD_PEERS": decoder_id}
        env["PSUEDOPTIMAL_DECODER_URL"] = f"http://{decoder_id}.runpod.internal:{DECODER_PORT}"
    if endpoint_id:
        env |= {
            "SANDBOX_TOKEN": f"{{{{ RUNPOD_SECRET_{wanted.sandbox_secret} }}}}",
            "POD_ENDPOINT": endpoint_id,
        }
        env["PSUEDOPTIMAL_SANDBOX_URL"] = f"https://{endpoint_id}.api.runpod.ai"
    mounts = Mounts(network=[NetworkMount(volume_id=volume_id, path=WORKSPACE)]) if volume_id else None
    return PodBody(
        name=name, image=wanted.image, args=shlex.join(["trainer", *wanted.command]), env=env,
        cloud=wanted.cloud, disk=wanted.disk_gb, data_center_ids=[data_center], registry=wanted.registry,
        gpu=Gpu(id=gpu, count=wanted.gpu_count, min_cuda_version=wanted.min_cuda), mounts=mounts,
        global_networking=True if decoder_id else None,
    )  # fmt: skip


def masked(body: dict[str, object]) -> dict[str, object]:
    """Return a body to show: values that may be secret are hidden, references to secrets stay."""
    env = body.get("env")
    if not isinstance(env, dict):
        return body
    shown = {
        name: "(hidden)" if is_secret(name) and not str(value).startswith("{{") else value
        for name, value in env.items()
    }
    return {**body, "env": shown}


def is_secret(variable: str) -> bool:
    """Whether a variable's name says that its value is a secret."""
    name = variable.upper()
    return name.endswith(("TOKEN", "_KEY", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS")) or name == "KEY"


def _given(wanted: Deployment) -> dict[str, str]:
    # Both are told, so that the trainer finds the decoder it was promised; a user's own variables win.
    model = wanted.generator_model
    names = () if model == "starter" else ("DECODER_MODEL", "PSUEDOPTIMAL_GENERATOR_MODEL")
    return {
        **dict.fromkeys(names, model),
        **wanted.env,
        **{name: f"{{{{ RUNPOD_SECRET_{of} }}}}" for name, of in wanted.secrets.items()},
    }
