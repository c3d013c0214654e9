"""Docker, for people who give an engine of their own: a warm container per lane, by runsc or by runc.

This machine's engine is never taken by itself: whoever can speak to an engine is root on its machine, so one
has to be given. Programs never see it. Everything goes through the engine's API, the zygote's own code too,
so the engine may be elsewhere. Not covered: with runc a bug in the engine's kernel, with runsc one in gVisor
and then in that kernel.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox_service.inside import harden
from sandbox_service.jails import seccomp
from sandbox_service.jails.gvisor import CLOSE, MEMORY, RLIMITS, SHM_BYTES, TMP_BYTES, UNCOUNTED
from sandbox_service.jails.jail import BIND_NOW, CHECK, ENVIRONMENT, JailMissing, Start
from sandbox_service.jails.lives import Life
from sandbox_service.jails.uids import Uids

if TYPE_CHECKING:
    import docker

_ROOM = "/room"
_LABEL = "psuedoptimal.sandbox"
_WAITING = 8  # as in bubblewrap: with runc each run has a process namespace's pids and a uid of its own
# The engine counts gVisor's own threads too, and gVisor dies when they are refused. RLIMIT_NPROC limits.
_PIDS = 1024
_ENGINE_S = 20
_RELAY = "import sys; sys.path[:0] = {roots!r}; from sandbox_service.jails.docker_relay import main; main()"
# Executed in the container: it takes the zygote's modules from its stdin, so that the engine needs no file
# of this machine.
_BOOT = """
import importlib.util, json, os, sys
def take(size):
    data = b''
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part: sys.exit('the service went away')
        data += part
    return data
class Room:
    texts = json.loads(take(int.from_bytes(take(4), 'big')))
    def find_spec(self, name, path=None, target=None):
        if name in self.texts:
            return importlib.util.spec_from_loader(name, self, is_package=not self.texts[name])
    def create_module(self, spec): return None
    def exec_module(self, module):
        exec(compile(self.texts[module.__name__], module.__name__, 'exec'), module.__dict__)
sys.meta_path.insert(0, Room())
for name in Room.texts: __import__(name)
del sys.meta_path[0], Room
sys.modules['sandbox_service.inside.zygote'].main()
"""


class Docker:
    """The Docker jail: `docker-gvisor` with the runtime runsc, `docker` with runc.

    host     address of the engine, as DOCKER_HOST has it; JailMissing without one
    image    what the containers run: any with a Python of 3.10 or newer
    raises   JailMissing naming what the engine does not give
    """

    def __init__(
        self,
        uids: Uids,
        python: Path | None = None,
        *,
        host: str | None,
        image: str,
        runtime: str,
        memory_mb: int,
    ) -> None:
        if not host:
            raise JailMissing(
                "no engine is given, and this machine's is not taken by itself",
                hint="set SANDBOX_DOCKER_HOST, as unix:///var/run/docker.sock; who holds it is root there",
            )
        self.gvisor, self.uids, self.host = runtime == "runsc", uids, host
        self.name = "docker-gvisor" if self.gvisor else "docker"
        self.exact_cpu = not self.gvisor
        self.python = python or Path("python3")
        self.layers: tuple[str, ...] = (
            "gVisor's own kernel (by Docker)"
            if self.gvisor
            else "a container (pid, mount, network, ipc, uts)",
            "read-only image, private /tmp and /dev/shm, no network",
            *(("/proc for the zygote alone",) if self.gvisor else ()),
            "a fresh uid per run",
            "no capabilities, no_new_privs",
            "seccomp: the engine's and ours" if not self.gvisor else "seccomp inside",
            f"rlimits; cgroup: {memory_mb} MiB",
        )
        self.weaknesses: tuple[str, ...] = (
            "the service holds an engine: whoever takes over the service is root on the engine's machine",
            "a bug in gVisor leads to a process with few system calls of the engine's kernel"
            if self.gvisor
            else "shares the engine's kernel",
            "files in /tmp are bounded by bytes (64 MiB), not by number",
        )
        self._client = _engine(host)
        self._wanted = self._container(image, runtime, memory_mb)
        self._life = Life(
            f"docker-{hashlib.sha256(host.encode()).hexdigest()[:8]}",
            lambda folder: self._remove({"life": self._name(folder)}),
        )
        try:
            self._life.sweep()
            self._sweep_those_without_a_folder()
            self._version = self._try(runtime, image)
            same = self._version.split(".")[:2] == [str(n) for n in sys.version_info[:2]]
            self.compiler = Path(sys.executable) if same else None
        except BaseException:
            self.close()
            raise

    def _container(self, image: str, runtime: str, memory_mb: int) -> dict[str, Any]:
        """What `docker.containers.create` takes, for all lanes alike."""
        rlimits = [
            {"Name": n.removeprefix("RLIMIT_").lower(), "Soft": v, "Hard": v} for n, v in RLIMITS.items()
        ]
        return {
            "image": image,
            "runtime": runtime,
            "environment": {
                **ENVIRONMENT,
                **BIND_NOW,
                **(MEMORY if self.gvisor else {}),
                "PATH": f"/usr/local/bin:{ENVIRONMENT['PATH']}",
            },
            "user": "0:0",
            "working_dir": "/tmp",
            "hostname": "jail",
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={TMP_BYTES}"},
            "shm_size": SHM_BYTES,
            "cap_drop": ["ALL"],
            "cap_add": ["KILL", "SETUID", "SETGID"],
            "security_opt": ["no-new-privileges:true"],
            "mem_limit": f"{memory_mb}m",
            "memswap_limit": f"{memory_mb}m",
            "pids_limit": _PIDS,
            "ulimits": rlimits,
            "init": False,
        }

    def _try(self, runtime: str, image: str) -> str:
        """Ask the image's Python for its version, in a container like the lanes'; say what is missing."""
        from docker.errors import APIError, ContainerError, ImageNotFound

        if runtime not in self._client.info()["Runtimes"]:
            raise JailMissing(
                f"SANDBOX_DOCKER_RUNTIME={runtime!r}: not registered with the engine at {self.host}",
                hint="`runsc install` and restart the engine; or accept runc by SANDBOX_DOCKER_RUNTIME=runc",
            )
        argv = [str(self.python), "-s", "-S", "-c", f"{CHECK}; print(sys.version.split()[0])"]
        try:
            self._client.images.get(image)  # `run` would pull it
            said = self._client.containers.run(
                **{**self._wanted, "entrypoint": argv, "labels": self._labels(-1), "remove": True}
            )
        except ImageNotFound as error:
            raise JailMissing(
                f"SANDBOX_DOCKER_IMAGE={image!r}: the engine lacks it, and nothing is pulled by itself",
                hint=f"docker pull {image}, or name another image with Python 3.10 or newer",
            ) from error
        except ContainerError as error:
            raise JailMissing(
                f"SANDBOX_DOCKER_IMAGE={image!r}: no usable Python in it: {error.stderr!r:.300}",
                hint="name an image with Python 3.10 or newer and its standard library",
            ) from error
        except APIError as error:
            raise JailMissing(
                f"the engine cannot start a container: {error.explanation or error}",
                hint=f"try `docker run --runtime {runtime} --network none {image} true`",
            ) from error
        return str(said, "utf-8", "replace").strip()

    def version(self) -> str:
        return self._version

    def _name(self, folder: Path) -> str:
        """A life's name, on this machine: several may share an engine."""
        return f"{socket.gethostname()}:{folder}"

    def _labels(self, lane: int) -> dict[str, str]:
        labels = {"life": self._name(self._life.folder), "lane": str(lane)}
        return {f"{_LABEL}.{key}": value for key, value in labels.items()}

    def start(self, lane: int) -> Start:
        code = (CLOSE if self.gvisor else "") + _BOOT
        wanted = {
            **self._wanted,
            "entrypoint": [str(self.python), "-s", "-S", "-c", code],
            "labels": self._labels(lane),
            "stdin_open": True,
            "log_config": {"type": "none"},
        }
        first, count = self.uids.block(lane)
        setup = {
            "room": _ROOM,
            "environment": ENVIRONMENT,
            "capabilities": [harden.CAP_KILL, harden.CAP_SETUID, harden.CAP_SETGID],
            "uid_first": first,
            "uid_count": count,
            "waiting": 1 if self.gvisor else _WAITING,
            "counted": UNCOUNTED if self.gvisor else 0,
            "home": "/tmp",
            "writable": ["/tmp", "/dev/shm"],
            "seccomp": base64.b64encode(seccomp.assemble(sockets=True, signals=True)).decode(),
        }
        relay = _RELAY.format(roots=[root for root in sys.path if root])
        argv = (sys.executable, "-c", relay, json.dumps(wanted))
        return Start(argv, setup, {**_environment(self.host), "PYTHONDONTWRITEBYTECODE": "1"})

    def sweep(self, lane: int) -> None:
        """Kill and remove a lane's containers; in order, the engine has done so already."""
        self._remove({"life": self._name(self._life.folder), "lane": str(lane)})

    def close(self) -> None:
        self._life.end()
        self._client.close()

    def _sweep_those_without_a_folder(self) -> None:
        """Remove containers of lives on this machine whose folder has gone, as after a restart."""
        for container in self._listed([f"{_LABEL}.life"]):
            host, _, folder = container.labels[f"{_LABEL}.life"].partition(":")
            if host == socket.gethostname() and not Path(folder).exists():
                remove(container)

    def _remove(self, labels: dict[str, str]) -> None:
        wanted = [f"{_LABEL}.{key}={value}" for key, value in labels.items()]
        for container in self._listed(wanted):
            remove(container)

    def _listed(self, labels: list[str]) -> list[Any]:
        """Return the containers with those labels; the engine may be removing some of its own accord."""
        found: list[Any] = self._client.containers.list(
            all=True, filters={"label": labels}, ignore_removed=True
        )
        return found


def remove(container: Any) -> None:
    """Kill and remove a container; it may have gone already."""
    from docker.errors import APIError

    try:
        container.remove(force=True)
    except APIError as error:
        if error.status_code not in (404, 409):  # it has gone, or is going
            raise


def _environment(host: str) -> dict[str, str]:
    """Docker's own variables, for the relay: the engine's address and its certificates."""
    names = ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
    return {"DOCKER_HOST": host, **{name: os.environ[name] for name in names if name in os.environ}}


def engine_from_environment() -> docker.DockerClient:
    """Connect to the engine that the environment names."""
    import docker

    return docker.from_env(timeout=_ENGINE_S)


def _engine(host: str) -> docker.DockerClient:
    """Connect to an engine; JailMissing when there is no SDK or no answer."""
    try:
        import docker
    except ImportError as error:
        raise JailMissing(
            "the Docker SDK is not installed", hint="pip install 'psuedoptimal[docker]'"
        ) from error
    from docker.errors import DockerException

    try:
        client = docker.from_env(environment=_environment(host), timeout=_ENGINE_S)
        client.ping()
    except (DockerException, OSError) as error:
        raise JailMissing(
            f"SANDBOX_DOCKER_HOST={host!r}: no engine answers there: {error!s:.300}",
            hint="start the engine, or correct its address; ssh:// is not supported",
        ) from error
    return client
