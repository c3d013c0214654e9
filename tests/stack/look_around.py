"""What can be reached, seen or written from inside a container. Prints one line per finding; none is good.

Run inside, as the service's own user: `docker compose exec -T sandbox-service python - ARGS < look_around.py`
ARGS are HOST:PORT to try beside what is tried anyway; each must be out of reach.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug")
DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}
VOLUMES = ("/run/secrets/", "/models")
MOUNTS = (
    *VOLUMES,
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/sbin/docker-init",
    "/usr/sbin/docker-init",
)
OF_A_DISK = ("ext4", "xfs", "btrfs", "zfs", "virtiofs", "9p", "fakeowner", "fuse.gcsfuse")
CLOSED = (
    "/",
    "/etc",
    "/usr",
    "/opt/venv",
    "/var",
    "/var/tmp",
    "/sys",
    "/proc/sys/kernel",
    "/sys/fs/cgroup",
)
METADATA = ("169.254.169.254:80", "169.254.170.2:80", "100.100.100.200:80")
ENGINES = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman")


def found() -> Iterator[str]:
    """Everything, one sentence each."""
    yield from privileges()
    yield from mounts()
    yield from files()
    yield from processes()
    yield from network()


def privileges() -> Iterator[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name], 16):
            yield f"capabilities: {name}={status[name]}"
    if status["NoNewPrivs"] != "1":
        yield "no_new_privs is off"
    if status["Seccomp"] != "2":
        yield "no seccomp filter"
    if 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
        yield f"root: {os.getresuid()} {os.getresgid()} {os.getgroups()}"


def mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        path, options, kind = left.split()[4], left.split()[5].split(","), right.split()[0]
        if kind in OF_A_DISK and not path.startswith(MOUNTS):
            yield f"a folder of the machine: {path}"
        if (path == "/" or path.startswith(VOLUMES)) and "ro" not in options:
            yield f"can be written: {path}"
    for folder in CLOSED:
        with suppress(OSError):
            (Path(folder) / "left").touch()
            yield f"wrote into {folder}"


def files() -> Iterator[str]:
    for name in MASKED:
        with suppress(OSError), Path(name).open("rb") as file:
            if file.read(1):
                yield f"not masked: {name}"
    for device in Path("/dev").iterdir():
        mode = device.lstat().st_mode
        if (stat.S_ISBLK(mode) or stat.S_ISCHR(mode)) and device.name not in DEVICES:
            yield f"a device: {device}"
    for name in ENGINES:
        if Path(name).exists():
            yield f"an engine: {name}"
    for top, folders, names in os.walk("/", onerror=lambda _: None):
        folders[:] = [name for name in folders if f"{top}{name}" not in ("/proc", "/sys", "/tmp")]
        for path in (Path(top) / name for name in names):
            with suppress(OSError):
                if stat.S_ISSOCK(path.lstat().st_mode):
                    yield f"a socket: {path}"


def processes() -> Iterator[str]:
    tokens = [path.read_text() for path in Path("/run/secrets").glob("*/token")]
    if len(tokens) != 1 or not tokens[0]:
        yield f"sees {len(tokens)} tokens"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text().replace("\0", " ")
            if any(name in command for name in ("dockerd", "containerd", "systemd")):
                yield f"a process of the machine: {command}"
            environment = (process / "environ").read_text()
            if any(secret in environment for secret in (*tokens, "HF_TOKEN=", "API_KEY=")):
                yield f"a secret in the environment of process {process.name}"


def network() -> Iterator[str]:
    # At a time: a name that nobody knows takes its ten seconds.
    with ThreadPoolExecutor(64) as pool:
        yield from filter(None, pool.map(reached, (*METADATA, *sys.argv[1:])))
        # A neighbour's name has no dot, and an address no letter.
        hosts = {address.rsplit(":", 1)[0] for address in sys.argv[1:]}
        yield from filter(None, pool.map(named, [h for h in hosts if "." in h and not h[-1].isdigit()]))


def reached(address: str) -> str:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError:
        return ""
    return f"reached {address}"


def named(name: str) -> str:
    try:
        return f"a name of the outside: {socket.getaddrinfo(name, 443)[0][4]}"
    except OSError:
        return ""


if __name__ == "__main__":
    for finding in found():
        print(finding)
