"""What crosses the line to RunPod's REST API v2: bodies as we send them, replies as far as we read them.

Bodies are strict, for a field RunPod does not know is a 422. Replies may hold more than we read. Field names
as in the published OpenAPI description, version 2.0.0.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Kind = Literal["volume", "endpoint", "pod"]
Availability = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
Gigabytes = Annotated[int, Field(ge=10, le=4096)]


class Body(BaseModel):
    """What is sent: camelCase, no unknown field, absent where None."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    name: str = Field(min_length=1)

    def to_json(self) -> dict[str, object]:
        """Return the body as it is sent."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


class Gpu(BaseModel):
    """One GPU type, and how many of it in one pod."""

    model_config = Body.model_config

    id: str
    count: int = Field(1, ge=1)
    min_cuda_version: str | None = Field(None, pattern=r"^\d+\.\d+$")


class Cpu(BaseModel):
    """A CPU flavor; vCPUs are a power of two."""

    model_config = Body.model_config

    id: str = Field(min_length=1)
    vcpu_count: int = Field(ge=2)


class NetworkMount(BaseModel):
    """A network volume's place in the container."""

    model_config = Body.model_config

    volume_id: str
    path: str


class Mounts(BaseModel):
    """A pod's storage."""

    model_config = Body.model_config

    network: list[NetworkMount] = Field(max_length=1)


class PodBody(Body):
    """`POST /v2/pods`."""

    image: str
    args: str
    env: dict[str, str]
    gpu: Gpu
    cloud: Literal["SECURE", "COMMUNITY"]
    data_center_ids: list[str]
    disk: int = Field(ge=1)
    ports: list[str] | None = None
    registry: str | None = None
    global_networking: bool | None = None
    mounts: Mounts | None = None


class Workers(BaseModel):
    """How many workers an endpoint has."""

    model_config = Body.model_config

    min: int = Field(ge=0)
    max: int = Field(ge=0)
    idle_timeout: int | None = Field(None, ge=1, le=3600)


class RequestCount(BaseModel):
    """The only scaler a load balancer takes: workers by requests in flight."""

    model_config = Body.model_config

    type: Literal["REQUEST_COUNT"] = "REQUEST_COUNT"
    request_count: int = Field(ge=1)


class EndpointBody(Body):
    """`POST /v2/serverless`, as a load balancer on CPUs."""

    image: str
    args: str | None = None
    env: dict[str, str]
    ports: list[str]
    disk: int = Field(ge=1)
    type: Literal["LOAD_BALANCER"] = "LOAD_BALANCER"
    cpu: list[Cpu]
    scaling: RequestCount
    workers: Workers
    registry: str | None = None


class VolumeBody(Body):
    """`POST /v2/network-volumes`."""

    size: Gigabytes
    data_center: str


# --- replies -----------------------------------------------------------------------------------------


class Reply(BaseModel):
    """What is read: only what is named here."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Resource(Reply):
    """A pod, an endpoint or a network volume. Fields a kind does not have keep their default."""

    id: str
    name: str
    status: str = ""
    cost: float = 0.0
    data_center_id: str | None = None
    data_center: str | None = None
    size: int = 0


class Place(Reply):
    """A data center as a catalogue entry names it."""

    id: str
    availability: Availability


class PodPrice(Reply):
    """Dollars per hour of one GPU."""

    secure: float
    community: float


class MaxCount(Reply):
    """The most GPUs of a type on one machine."""

    secure: int
    community: int


class GpuType(Reply):
    """One row of the GPU catalogue."""

    id: str
    name: str
    manufacturer: str
    memory: int
    secure: bool
    community: bool
    price: PodPrice
    max_count: MaxCount
    availability: Availability = "NONE"
    data_centers: list[Place] = []


class CpuPrice(Reply):
    """Dollars per hour of one vCPU."""

    secure_per_vcpu: float = Field(alias="securePerVcpu")
    serverless_per_vcpu: float = Field(alias="serverlessPerVcpu")


class VcpuRange(Reply):
    """How many vCPUs a flavor has."""

    min: int
    max: int


class CpuType(Reply):
    """One row of the CPU catalogue."""

    id: str
    name: str
    vcpu: VcpuRange
    ram_gb_per_vcpu: float = Field(alias="ramGbPerVcpu")
    price: CpuPrice
    availability: Availability = "NONE"


class DataCenter(Reply):
    """One row of the data center catalogue."""

    id: str
    name: str
    global_network: bool
    network_volume_types: list[str]


class LogLine(Reply):
    """One line of a pod's log. `at` is where a stream goes on from."""

    source: str = ""
    line: str
    ts: str = ""
    at: str = ""
