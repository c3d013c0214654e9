"""A RunPod REST API v2 to test against: documented paths, bodies, status codes and headers, as a real server.

    python -m uvicorn --app-dir tests/runpod fake_runpod:app

Bodies are checked as strictly as the published description says: an unknown field is a 422. `POST /_rules`
tells it how to fail: {"method", "path", "do", "times", "skip", ...}. `GET /_log`: what it carried out.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

KEY = "rpa_test"
RATE = {"RateLimit": '"minute";r=99;t=60', "RateLimit-Policy": '"minute";q=100;w=60'}

GPUS: list[dict[str, Any]] = [
    {"id": "NVIDIA GeForce RTX 4090", "name": "RTX 4090", "pool": "ADA_24", "manufacturer": "NVIDIA",
     "memory": 24, "secure": True, "community": True, "price": {"secure": 0.69, "community": 0.34},
     "maxCount": {"secure": 8, "community": 4}, "stock": {"EU-RO-1": "HIGH", "US-TX-3": "LOW"}},
    {"id": "NVIDIA RTX A5000", "name": "RTX A5000", "pool": "AMPERE_24", "manufacturer": "NVIDIA",
     "memory": 24, "secure": True, "community": True, "price": {"secure": 0.27, "community": 0.16},
     "maxCount": {"secure": 4, "community": 4}, "stock": {"EU-RO-1": "LOW", "EU-SE-1": "HIGH"}},
    {"id": "NVIDIA A100 80GB PCIe", "name": "A100 PCIe", "pool": "AMPERE_80", "manufacturer": "NVIDIA",
     "memory": 80, "secure": True, "community": True, "price": {"secure": 1.64, "community": 1.19},
     "maxCount": {"secure": 8, "community": 8}, "stock": {"US-TX-3": "MEDIUM", "EU-RO-1": "NONE"}},
    {"id": "NVIDIA L4", "name": "L4", "pool": None, "manufacturer": "NVIDIA", "memory": 24,
     "secure": True, "community": False, "price": {"secure": 0.39, "community": 0.0},
     "maxCount": {"secure": 1, "community": 0}, "stock": {}},
    {"id": "NVIDIA RTX A4000", "name": "RTX A4000", "pool": None, "manufacturer": "NVIDIA", "memory": 16,
     "secure": True, "community": True, "price": {"secure": 0.25, "community": 0.17},
     "maxCount": {"secure": 8, "community": 4}, "stock": {"EU-RO-1": "HIGH"}},
    {"id": "AMD Instinct MI300X OAM", "name": "MI300X", "pool": None, "manufacturer": "AMD",
     "memory": 192, "secure": True, "community": False, "price": {"secure": 0.2, "community": 0.0},
     "maxCount": {"secure": 8, "community": 0}, "stock": {"EU-RO-1": "HIGH"}},
]  # fmt: skip
CPUS: list[dict[str, Any]] = [
    {"id": "cpu3c", "name": "Compute-Optimized", "group": "Gen 3", "vcpu": {"min": 2, "max": 32},
     "ramGbPerVcpu": 2, "price": {"securePerVcpu": 0.03, "serverlessPerVcpu": 0.036}, "availability": "HIGH"},
    {"id": "cpu5c", "name": "Compute-Optimized", "group": "Gen 5", "vcpu": {"min": 2, "max": 32},
     "ramGbPerVcpu": 2, "price": {"securePerVcpu": 0.04, "serverlessPerVcpu": 0.030}, "availability": "HIGH"},
    {"id": "cpu9x", "name": "Small", "group": "Gen 9", "vcpu": {"min": 2, "max": 8}, "ramGbPerVcpu": 0.5,
     "price": {"securePerVcpu": 0.01, "serverlessPerVcpu": 0.001}, "availability": "HIGH"},
]  # fmt: skip
CENTERS = [
    {"id": "EU-RO-1", "name": "Romania 1", "region": "EUROPE", "globalNetwork": True,
     "networkVolumeTypes": ["STANDARD"], "compliance": []},
    {"id": "US-TX-3", "name": "US Texas 3", "region": "NORTH_AMERICA", "globalNetwork": True,
     "networkVolumeTypes": ["STANDARD"], "compliance": []},
    {"id": "EU-SE-1", "name": "Sweden 1", "region": "EUROPE", "globalNetwork": False,
     "networkVolumeTypes": [], "compliance": []},
]  # fmt: skip


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gpu(Strict):
    id: str
    count: int = Field(1, ge=1)
    allowedCudaVersions: list[str] = []
    minCudaVersion: str | None = Field(None, pattern=r"^\d+\.\d+$")
    minRamPerGpu: int | None = None
    minVcpuCountPerGpu: int | None = None


class Cpu(Strict):
    id: str = Field(min_length=1)
    vcpuCount: int = Field(ge=2)


class Persistent(Strict):
    size: int = Field(ge=10)
    path: str


class Network(Strict):
    volumeId: str
    path: str


class Mounts(Strict):
    persistent: Persistent | None = None
    network: list[Network] | None = Field(None, max_length=1)


class Container(Strict):
    args: str = ""
    disk: int = Field(20, ge=1)
    env: dict[str, str] = {}
    image: str
    ports: list[str] = []
    registry: str | None = None


class PodRequest(Container):
    name: str = Field(min_length=1)
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    cpu: Cpu | None = None
    gpu: Gpu | None = None
    dataCenterIds: list[str] = []
    globalNetworking: bool = False
    mounts: Mounts = Mounts()
    startJupyter: bool = False
    startSsh: bool = False


class Scaling(Strict):
    type: Literal["REQUEST_COUNT"]
    requestCount: int = Field(ge=1)


class Workers(Strict):
    min: int = Field(0, ge=0)
    max: int = Field(3, ge=0)
    idleTimeout: int = Field(10, ge=1, le=3600)


class EndpointRequest(Container):
    name: str = Field(min_length=1)
    type: Literal["QUEUE", "LOAD_BALANCER"]
    scaling: Scaling
    cpu: list[Cpu] | None = Field(None, min_length=1)
    dataCenterIds: list[str] = []
    flashboot: Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"] = "OFF"
    networkVolumes: list[str] = []
    timeout: int = 300000
    workers: Workers = Workers()


class VolumeRequest(Strict):
    name: str = Field(min_length=1)
    size: int = Field(ge=10, le=4096)
    dataCenter: str = Field(min_length=1)
    type: Literal["STANDARD", "HIGH_PERFORMANCE"] | None = None


class ActionRequest(Strict):
    action: Literal["start", "stop", "restart", "terminate"]


class PatchWorkers(Strict):
    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=0)


class PatchEndpoint(Strict):
    workers: PatchWorkers


class Rule(Strict):
    """The next `times` requests that fit, after `skip` of them, go wrong.

    do  refuse: answer `status` at once. after: carry it out, then answer `status`. slow: wait `seconds`, then
        carry it out. stalled: carry it out, then wait `seconds` with the answer
    """

    method: str
    path: str
    do: Literal["refuse", "after", "slow", "stalled"]
    status: int = 500
    detail: str = "as the test wishes"
    retry_after: int | None = None
    seconds: float = 0.0
    times: int = 1
    skip: int = 0
    gpu: str | None = None


class Account:
    """What the account has."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}
        self.rules: list[Rule] = []
        self.done: list[dict[str, Any]] = []
        self.number = 0
        self.hidden = 0

    def fresh(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number:06d}"


app = FastAPI()
account = Account()


def problem(status: int, detail: str, errors: list[str] | None = None, **headers: str) -> JSONResponse:
    body: dict[str, Any] = {"title": "Error", "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, {**RATE, **headers}, media_type="application/problem+json")


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> Response:
    faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return problem(422, "Request validation failed.", faults)


@app.middleware("http")
async def door(request: Request, call_next: Any) -> Response:
    path = request.url.path
    if path.startswith("/_"):
        return await call_next(request)
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return problem(401, "missing bearer token")
    body = await request.body()
    rule = _rule(request.method, path, body)
    if rule and rule.do == "refuse":
        retry = {"Retry-After": str(rule.retry_after)} if rule.retry_after is not None else {}
        return problem(rule.status, rule.detail, **retry)
    if rule and rule.do == "slow":
        await asyncio.sleep(rule.seconds)
    reply = await call_next(request)
    account.done.append({"method": request.method, "path": path, "status": reply.status_code,
                         "body": json.loads(body) if body else None})  # fmt: skip
    if rule and rule.do == "stalled":
        await asyncio.sleep(rule.seconds)
    if rule and rule.do == "after":
        return problem(rule.status, rule.detail)
    reply.headers.update(RATE)
    return reply


def _rule(method: str, path: str, body: bytes) -> Rule | None:
    for rule in account.rules:
        gpu = (json.loads(body).get("gpu") or {}).get("id") if body and rule.gpu else None
        if rule.times and rule.method == method and path == rule.path and gpu == rule.gpu:
            if rule.skip:
                rule.skip -= 1
                continue
            rule.times -= 1
            return rule
    return None


# --- for the tests -----------------------------------------------------------------------------------


@app.post("/_reset")
async def reset() -> None:
    account.__init__()  # type: ignore[misc]


@app.post("/_rules")
async def rules(rule: Rule) -> None:
    account.rules.append(rule)


@app.get("/_log")
async def log() -> list[dict[str, Any]]:
    return account.done


@app.get("/_all")
async def everything() -> dict[str, Any]:
    return {"pods": account.pods, "endpoints": account.endpoints, "volumes": account.volumes}


@app.post("/_pods/{pod_id}")
async def set_pod(pod_id: str, change: dict[str, Any]) -> None:
    account.logs.setdefault(pod_id, []).extend(change.pop("lines", []))
    account.pods[pod_id].update(change)


# --- catalogue ---------------------------------------------------------------------------------------


@app.get("/v2/catalog/gpus")
async def gpus(
    include: str | None = None, product: str | None = None, count: int = 1, cloud: str = "SECURE"
) -> Response:
    if (include == "AVAILABILITY") != (product is not None):
        return problem(400, "include=AVAILABILITY and product go together")
    found = []
    for gpu in copy.deepcopy(GPUS):
        stock = gpu.pop("stock")
        if include and count <= gpu["maxCount"][cloud.lower()] and stock:
            gpu["availability"] = min(stock.values(), key=["HIGH", "MEDIUM", "LOW", "NONE"].index)
            gpu["dataCenters"] = [
                {"id": at, "name": at, "availability": level} for at, level in stock.items()
            ]
        found.append(gpu)
    return JSONResponse({"gpus": found})


@app.get("/v2/catalog/cpus")
async def cpus(include: str | None = None, product: str | None = None, vcpuCount: int = 2) -> Response:
    if (include == "AVAILABILITY") != (product is not None) or vcpuCount & (vcpuCount - 1):
        return problem(400, "include=AVAILABILITY and product go together; vcpuCount is a power of two")
    return JSONResponse({"cpus": CPUS})


@app.get("/v2/catalog/datacenters")
async def datacenters() -> Response:
    return JSONResponse({"dataCenters": CENTERS})


# --- pods --------------------------------------------------------------------------------------------


@app.get("/v2/pods")
async def list_pods() -> Response:
    return JSONResponse({"pods": list(account.pods.values())})


@app.post("/v2/pods")
async def create_pod(wanted: PodRequest) -> Response:
    if (wanted.gpu is None) == (wanted.cpu is None):
        return problem(400, "exactly one of gpu or cpu must be set")
    if wanted.mounts.persistent and wanted.mounts.network:
        return problem(400, "persistent and network mounts are mutually exclusive")
    if len(wanted.env) > 50:
        return problem(400, "too many environment variables")
    gpu = next((gpu for gpu in GPUS if wanted.gpu and gpu["id"] == wanted.gpu.id), None)
    centers = [center for center in CENTERS if center["id"] in wanted.dataCenterIds] or CENTERS
    if gpu is None:
        return problem(400, "unknown GPU type")
    if wanted.globalNetworking and not (gpu["manufacturer"] == "NVIDIA" and centers[0]["globalNetwork"]):
        return problem(400, "global networking is not available here")
    for mount in wanted.mounts.network or []:
        volume = account.volumes.get(mount.volumeId)
        if volume is None or volume["dataCenter"] not in [center["id"] for center in centers]:
            return problem(400, "the network volume is not in this data center")
    if gpu["stock"].get(centers[0]["id"], "NONE") == "NONE":
        return problem(400, "There are no longer any instances available with the requested specifications.")
    count = wanted.gpu.count if wanted.gpu else 0
    pod_id = account.fresh("pod")
    pod = {
        **wanted.model_dump(exclude={"cpu", "startSsh", "startJupyter", "dataCenterIds", "globalNetworking"}),
        "id": pod_id, "status": "PROVISIONING", "actions": ["stop", "terminate"],
        "gpu": {"id": gpu["id"], "count": count, "vcpuCount": 8 * count, "memory": 32 * count},
        "dataCenterId": centers[0]["id"], "cost": gpu["price"][wanted.cloud.lower()] * count, "locked": False,
        "globalNetworking": {"enabled": wanted.globalNetworking}, "runtime": None, "template": None,
        "createdAt": "2026-11-01T12:00:00Z", "startedAt": None,
    }  # fmt: skip
    account.pods[pod_id] = pod
    return JSONResponse(pod, 201)


@app.get("/v2/pods/{pod_id}")
async def get_pod(pod_id: str) -> Response:
    return (
        JSONResponse(account.pods[pod_id]) if pod_id in account.pods else problem(404, "resource not found")
    )


@app.delete("/v2/pods/{pod_id}")
async def delete_pod(pod_id: str) -> Response:
    if account.pods.pop(pod_id, None) is None:
        return problem(404, "resource not found")
    return Response(status_code=204)


@app.post("/v2/pods/{pod_id}/action")
async def act(pod_id: str, wanted: ActionRequest) -> Response:
    pod = account.pods.get(pod_id)
    if pod is None:
        return problem(404, "resource not found")
    if wanted.action not in ("stop", "terminate") or pod["status"] == "EXITED":
        return problem(409, f"{wanted.action} is not valid for a pod that is {pod['status']}")
    if wanted.action == "terminate":
        del account.pods[pod_id]
        return Response(status_code=204)
    pod.update(status="EXITED", cost=0.0)
    return JSONResponse(pod)


@app.get("/v2/pods/{pod_id}/logs")
async def pod_logs(request: Request, pod_id: str, tail: int = 100) -> Response:
    if pod_id not in account.pods:
        return problem(404, "resource not found")
    last = request.headers.get("last-event-id", "")

    async def stream() -> AsyncIterator[str]:
        lines = account.logs.get(pod_id, [])
        sent = int(last.rpartition("/")[2]) if last else max(0, len(lines) - tail)
        first, end = sent, False
        while not end:
            for line in lines[sent:]:
                sent += 1
                # A cut stream in the middle, once: the client must come back with what it has seen.
                end = line == "CUT" and sent > first + 1
                ts = f"2026-11-01T12:00:{sent:02d}Z"
                data = json.dumps({"source": "container", "line": line, "ts": ts})
                yield f"id: {ts}/{sent}\ndata: {data}\n\n"
                if end:
                    break
            await asyncio.sleep(0.02)

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


# --- endpoints and volumes ---------------------------------------------------------------------------


@app.get("/v2/serverless")
async def list_endpoints() -> Response:
    return JSONResponse({"endpoints": list(account.endpoints.values())})


@app.post("/v2/serverless")
async def create_endpoint(wanted: EndpointRequest) -> Response:
    if wanted.type == "LOAD_BALANCER" and not wanted.ports:
        return problem(400, "a load balancer needs a port")
    found = account.fresh("ep")
    account.endpoints[found] = {
        **wanted.model_dump(exclude={"cpu"}), "id": found, "createdAt": "2026-11-01T12:00:00Z",
        "cpu": [{**cpu.model_dump(), "memory": 2 * cpu.vcpuCount} for cpu in wanted.cpu or []],
        "requestUrls": {"base": f"https://{found}.api.runpod.ai", "health": f"https://{found}.api.runpod.ai/ping"},
    }  # fmt: skip
    return JSONResponse(account.endpoints[found], 201)


@app.get("/v2/serverless/{endpoint_id}")
async def get_endpoint(endpoint_id: str) -> Response:
    if endpoint_id not in account.endpoints:
        return problem(404, "resource not found")
    return JSONResponse(account.endpoints[endpoint_id])


@app.patch("/v2/serverless/{endpoint_id}")
async def patch_endpoint(endpoint_id: str, wanted: PatchEndpoint) -> Response:
    if endpoint_id not in account.endpoints:
        return problem(404, "resource not found")
    account.endpoints[endpoint_id]["workers"].update(wanted.workers.model_dump(exclude_none=True))
    return JSONResponse(account.endpoints[endpoint_id])


@app.delete("/v2/serverless/{endpoint_id}")
async def delete_endpoint(endpoint_id: str) -> Response:
    if account.endpoints.pop(endpoint_id, None) is None:
        return problem(404, "resource not found")
    return Response(status_code=204)


@app.get("/v2/network-volumes")
async def list_volumes() -> Response:
    return JSONResponse({"networkVolumes": list(account.volumes.values())})


@app.post("/v2/network-volumes")
async def create_volume(wanted: VolumeRequest) -> Response:
    center = next((center for center in CENTERS if center["id"] == wanted.dataCenter), None)
    if center is None or not center["networkVolumeTypes"]:
        return problem(400, "no network volumes in this data center")
    found = account.fresh("vol")
    account.volumes[found] = {**wanted.model_dump(), "id": found, "type": "STANDARD"}
    return JSONResponse(account.volumes[found], 201)


@app.get("/v2/network-volumes/{volume_id}")
async def get_volume(volume_id: str) -> Response:
    if volume_id not in account.volumes:
        return problem(404, "resource not found")
    return JSONResponse(account.volumes[volume_id])


@app.delete("/v2/network-volumes/{volume_id}")
async def delete_volume(volume_id: str) -> Response:
    mounts = [mount for pod in account.pods.values() for mount in pod["mounts"]["network"] or []]
    if any(mount["volumeId"] == volume_id for mount in mounts):
        return problem(400, "the volume is in use")
    if account.volumes.pop(volume_id, None) is None:
        return problem(404, "resource not found")
    return Response(status_code=204)
