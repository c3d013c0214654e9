"""RunPod's REST API v2 over httpx: what is safe to repeat is repeated, the rest says whether it happened.

It keeps no record and never creates twice by itself: that is deploy.py's work.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from runpod_deployer.schemas import Body, CpuType, DataCenter, GpuType, Kind, LogLine, Resource
from shared.errors import Broken, NoAnswer, Overloaded, RequestRefused, Unavailable

URL = "https://api.runpod.io/v2"
# Where a kind lives, and what a listing calls it.
KINDS: dict[Kind, tuple[str, str]] = {
    "volume": ("/network-volumes", "networkVolumes"),
    "endpoint": ("/serverless", "endpoints"),
    "pod": ("/pods", "pods"),
}
CONNECT_S, READ_S = 10.0, 60.0
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 20.0

T = TypeVar("T")


class ApiRefused(RequestRefused):
    """RunPod said no (4xx): nothing was made, and the same request gets the same answer.

    http  the status: 400 rule broken or no capacity, 401, 402 no balance, 403, 404, 409, 422
    """

    def __init__(self, http: int, detail: str, *, hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.http = http


class Unclear(NoAnswer):
    """The request may have been carried out: its answer was lost, or was a 5xx. Ask before repeating it."""


class Runpod:
    """One account.

    key         an API key that may read the catalogue and write pods, endpoints and volumes
    deadline_s  how long a request that may be repeated is, over 429 and outages
    transport   httpx's; for tests that lose answers
    pause       sleeps; for tests
    """

    def __init__(
        self, key: str, url: str = URL, *, deadline_s: float = 300.0,
        transport: httpx.BaseTransport | None = None, pause: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._deadline_s, self._pause = deadline_s, pause
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, transport=transport,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        )  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- catalogue ---

    def gpus(self, count: int, cloud: str) -> list[GpuType]:
        """Return every GPU type with its price and stock for pods of `count` GPUs."""
        asked = {"include": "AVAILABILITY", "product": "POD", "count": str(count), "cloud": cloud}
        return self._list("/catalog/gpus", "gpus", GpuType, asked)

    def cpus(self, vcpus: int) -> list[CpuType]:
        """Return every CPU flavor with its price and stock for serverless workers."""
        asked = {"include": "AVAILABILITY", "product": "SERVERLESS", "vcpuCount": str(vcpus)}
        return self._list("/catalog/cpus", "cpus", CpuType, asked)

    def data_centers(self) -> list[DataCenter]:
        """Return every data center."""
        return self._list("/catalog/datacenters", "dataCenters", DataCenter, {})

    # --- resources ---

    def every(self, kind: Kind) -> list[Resource]:
        """Return every resource of a kind that the account has."""
        path, key = KINDS[kind]
        return self._list(path, key, Resource, {})

    def get(self, kind: Kind, resource_id: str) -> Resource | None:
        """Return one resource, or None where there is none (any more)."""
        try:
            reply = self._send("GET", f"{KINDS[kind][0]}/{quote(resource_id, safe='')}")
        except ApiRefused as error:
            if error.http == 404:
                return None
            raise
        found = self._read(Resource, reply.content)
        return None if found.status == "TERMINATED" else found

    def create(self, kind: Kind, body: Body) -> Resource:
        """Create one resource, or raise.

        raises  ApiRefused or Unavailable: it was not made. Unclear: nobody knows; look for its name
        """
        reply = self._send("POST", KINDS[kind][0], content=body.to_json(), safe=False)
        return self._read(Resource, reply.content)

    def delete(self, kind: Kind, resource_id: str) -> None:
        """Delete for good. What is not there any more is deleted."""
        try:
            self._send("DELETE", f"{KINDS[kind][0]}/{quote(resource_id, safe='')}")
        except ApiRefused as error:
            if error.http != 404:
                raise

    def stop(self, pod_id: str) -> None:
        """Stop a pod: its GPU is given back, its disk stays. One that is stopped or gone is fine."""
        try:
            self._send("POST", f"/pods/{quote(pod_id, safe='')}/action", content={"action": "stop"})
        except ApiRefused as error:
            if error.http not in (404, 409):
                raise

    def workers(self, endpoint_id: str) -> list[str]:
        """Return the ids of an endpoint's workers."""
        reply = self._send("GET", f"/serverless/{quote(endpoint_id, safe='')}/workers")
        return [str(worker["id"]) for worker in _json(reply.content).get("workers", [])]

    def rest(self, endpoint_id: str) -> None:
        """Let an endpoint fall to no workers when nobody asks it."""
        self._send("PATCH", f"/serverless/{quote(endpoint_id, safe='')}", content={"workers": {"min": 0}})

    def logs(
        self, path: str, *, tail: int, follow: bool, quiet_s: float = 3.0, most_s: float = 15.0
    ) -> Iterator[LogLine]:
        """Yield log lines, oldest first; following, for ever, over lost connections.

        path     e.g. /pods/ID/logs
        tail     lines of the past; not following, no more than these
        quiet_s  not following: how long nothing may come before the backlog counts as read
        most_s   not following: how long lines are read. The stream does not tell the past from the present
        """
        params: dict[str, str] = {"tail": str(tail)}
        headers: dict[str, str] = {}
        limit = httpx.Timeout(None if follow else quiet_s, connect=CONNECT_S)
        end = math.inf if follow else time.monotonic() + most_s
        while True:
            try:
                with self._http.stream("GET", path, params=params, headers=headers, timeout=limit) as reply:
                    if reply.status_code != 200:
                        reply.read()
                        raise _error_of(reply)
                    raw = takewhile(lambda _: time.monotonic() < end, reply.iter_lines())
                    for line in islice(_events(raw), None if follow else tail):
                        if line.at:
                            headers["Last-Event-ID"] = line.at
                        yield line
            except httpx.ReadTimeout:
                return
            except httpx.TransportError as error:
                if not follow:
                    raise Unavailable(f"RunPod: the log stream broke ({error})", hint="repeat it") from error
            if not follow:
                return
            self._pause(1.0)

    # --- one request ---

    def _list(self, path: str, key: str, kind: type[T], params: dict[str, str]) -> list[T]:
        found = _json(self._send("GET", path, params=params).content)
        if not isinstance(found.get(key), list):
            raise Broken(f"RunPod: GET {path}: no list called {key!r} in the answer", hint=_VERSION)
        return self._read(list[kind], json.dumps(found[key]).encode())  # type: ignore[valid-type]

    def _send(
        self, method: str, path: str, *, content: Any = None, params: dict[str, str] | None = None,
        safe: bool = True,
    ) -> httpx.Response:  # fmt: skip
        """Send until there is an answer or the deadline has come.

        safe    whether repeating it does no harm; if not, only what certainly did not happen is repeated
        raises  ApiRefused; Unclear if not safe and the answer was lost; else the last NoAnswer
        """
        end, rounds = time.monotonic() + self._deadline_s, 0
        while True:
            try:
                reply = self._http.request(method, path, json=content, params=params)
                if reply.status_code < 300:
                    return reply
                error: NoAnswer | RequestRefused = _error_of(reply)
            except (httpx.ConnectError, httpx.ConnectTimeout) as lost:
                error = Unavailable(f"RunPod: not reachable ({lost or type(lost).__name__})", hint=_REACH)
            except httpx.TransportError as lost:
                error = Unclear(f"RunPod: the answer to {method} {path} was lost ({lost!r})")
            if isinstance(error, RequestRefused) or (isinstance(error, Unclear) and not safe):
                raise error
            backoff = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**rounds) * random.uniform(0.5, 1.0)
            wait = max(backoff, error.retry_after_s or 0.0)
            if time.monotonic() + wait >= end:
                raise error
            self._pause(wait)
            rounds += 1

    @staticmethod
    def _read(kind: type[T], content: bytes) -> T:
        try:
            return TypeAdapter(kind).validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Broken(f"RunPod: unreadable answer: {field}: {first['msg']}", hint=_VERSION) from error


_VERSION = "this client speaks REST API v2; is RUNPOD_API_BASE_URL right?"
_REACH = "look at the network, or at RUNPOD_API_BASE_URL"
_HINTS = {
    401: "set RUNPOD_API_KEY to a key of this account",
    402: "add credit to the account; nothing was made",
    403: "the key may not do that, or the account may not use that hardware",
}


def _error_of(reply: httpx.Response) -> NoAnswer | ApiRefused:
    """Return the error of a reply: problem+json in RunPod's words, else its text."""
    request = reply.request
    problem = _json(reply.content)
    words = str(problem.get("detail") or problem.get("title") or reply.text[:200] or "no reason given")
    faults = "; ".join(str(fault) for fault in problem.get("errors") or [])
    text = f"RunPod: {request.method} {request.url.path}: HTTP {reply.status_code}: {words[:500]}"
    text += f" ({faults[:1000]})" if faults else ""
    if reply.status_code == 429:
        return Overloaded(text, retry_after_s=_seconds(reply.headers.get("Retry-After")))
    if reply.status_code >= 500:
        return Unclear(text, hint="RunPod failed; repeat it later")
    return ApiRefused(reply.status_code, text, hint=_HINTS.get(reply.status_code, ""))


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which RunPod documents as whole seconds."""
    try:
        return max(0.0, float(text or ""))
    except ValueError:
        return None


def _events(lines: Iterator[str]) -> Iterator[LogLine]:
    """Yield the log lines of an event stream: `id:` and `data:` lines, closed by an empty one."""
    fields: dict[Literal["id", "data"], str] = {}
    for line in lines:
        if line.startswith("id:"):
            fields["id"] = line[3:].strip()
        elif line.startswith("data:"):
            fields["data"] = fields.get("data", "") + line[5:].strip()
        elif not line and "data" in fields:
            parsed = _json(fields["data"].encode())
            if isinstance(parsed.get("line"), str):
                yield LogLine.model_validate({**parsed, "at": fields.get("id", "")})
            fields = {}
