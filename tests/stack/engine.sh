#!/usr/bin/env bash
# Run a command beside a Docker engine of its own, with the runtimes runc and runsc and one image with Python.
#
#     tests/stack/engine.sh python -m pytest -m "docker or gvisor"
#
# Needs root on Debian or Ubuntu; installs docker.io, runsc and debootstrap where they are absent. The engine
# keeps everything below $ENGINE (kept between calls, for the image) and ends with the command. Where
# SANDBOX_DOCKER_HOST is set, that engine is used as it is, and SANDBOX_DOCKER_IMAGE names its image.
set -euo pipefail

ENGINE=${ENGINE:-/var/tmp/sandbox-engine}
SUITE=${SUITE:-bookworm}
IMAGE=sandbox-python:$SUITE

if [ -n "${SANDBOX_DOCKER_HOST:-}" ]; then
    exec "$@"
fi
if [ "$(id -u)" != 0 ]; then
    echo "engine.sh: only root can start an engine; set SANDBOX_DOCKER_HOST to use one that runs" >&2
    exit 2
fi

absent=()
for pair in dockerd:docker.io docker:docker.io runsc:runsc debootstrap:debootstrap; do
    command -v "${pair%%:*}" >/dev/null || absent+=("${pair#*:}")
done
if [ ${#absent[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${absent[@]}"
fi

mkdir -p "$ENGINE"
chmod 700 "$ENGINE"
cat >"$ENGINE/daemon.json" <<END
{
  "data-root": "$ENGINE/data", "exec-root": "$ENGINE/exec", "pidfile": "$ENGINE/pid",
  "hosts": ["unix://$ENGINE/docker.sock"],
  "bridge": "none", "iptables": false, "ip-forward": false, "ip-masq": false,
  "runtimes": {"runsc": {"path": "$(command -v runsc)", "runtimeArgs": ["--network=none"]}}
}
END
dockerd --config-file "$ENGINE/daemon.json" >"$ENGINE/log" 2>&1 &
engine=$!
trap 'kill "$engine" 2>/dev/null; wait "$engine" 2>/dev/null || true' EXIT
export DOCKER_HOST=unix://$ENGINE/docker.sock
for _ in $(seq 100); do
    docker version >/dev/null 2>&1 && break
    if ! kill -0 "$engine" 2>/dev/null; then
        tail -5 "$ENGINE/log" >&2
        exit 1
    fi
    sleep 0.2
done

if ! docker image inspect "$IMAGE" >/dev/null 2>&1; then
    root=$(mktemp -d "$ENGINE/root.XXXXXX")
    debootstrap --variant=minbase --include=python3 "$SUITE" "$root" >"$ENGINE/debootstrap.log" ||
        { tail -5 "$ENGINE/debootstrap.log" >&2; exit 1; }
    tar -C "$root" --exclude=./var/cache --exclude=./var/lib/apt -c . | docker import - "$IMAGE" >/dev/null
    rm -rf "$root"
fi

export SANDBOX_DOCKER_HOST=$DOCKER_HOST SANDBOX_DOCKER_IMAGE=$IMAGE
unset DOCKER_HOST
"$@"
