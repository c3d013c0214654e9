#!/usr/bin/env bash
# Run a command beside a Docker engine of its own, with the runtimes runc and runsc, Compose, and a base image.
#
#     tests/stack/engine.sh python -m pytest -m "docker or gvisor"
#
# Needs root on Debian or Ubuntu; installs docker.io, runsc, debootstrap and Compose where they are absent. The
# engine keeps everything below $ENGINE (kept between calls, for the images) and ends with the last command that
# uses it. Where SANDBOX_DOCKER_HOST is set, that engine is used as it is: SANDBOX_DOCKER_IMAGE names its image,
# and BASE_IMAGE, BUILD_IMAGE and TORCH_INDEX say what the stack's images are built on (docker-compose.yml).
# Exit code 69 where no engine can be started here; else the command's.
set -euo pipefail

ENGINE=${ENGINE:-/var/tmp/sandbox-engine}
SUITE=${SUITE:-bookworm}
COMPOSE_SUITE=${COMPOSE_SUITE:-trixie}
IMAGE=sandbox-python:$SUITE-2
BUILDER=sandbox-build:$SUITE-2
PYTHON=${PYTHON:-python3}

if [ -n "${SANDBOX_DOCKER_HOST:-}" ]; then
    exec "$@"
fi
if [ "$(id -u)" != 0 ]; then
    echo "engine.sh: only root can start an engine; set SANDBOX_DOCKER_HOST to use one that runs" >&2
    exit 69
fi
mkdir -p "$ENGINE"
chmod 700 "$ENGINE"
exec 8>"$ENGINE/start.lock" 9>"$ENGINE/use.lock"

# A Debian package of another release, unpacked without touching what is installed.
fetch() { # package, binary within it, target
    local apt="$ENGINE/apt-$COMPOSE_SUITE"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/unpacked"
    # Debian's archive, on Ubuntu too: where debootstrap takes a base image from.
    local mirror
    mirror=$(sed -n 's/^DEF_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $COMPOSE_SUITE main" >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/nonexistent
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download "$1")
    dpkg-deb -x "$apt/$1"_*.deb "$apt/unpacked"
    install -D -m 755 "$apt/unpacked/$2" "$3"
    rm -rf "$apt"
}

base_image() {
    local root
    root=$(mktemp -d "$ENGINE/root.XXXXXX")
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$root" \
        >"$ENGINE/debootstrap.log" || { tail -5 "$ENGINE/debootstrap.log" >&2; exit 1; }
    tar -C "$root" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists -c . | docker import - "$IMAGE" >/dev/null
    rm -rf "$root"
}

# The base and how this machine reaches the package registries: its CA bundle, and PyTorch for the CPU as its pip
# finds it. None of that gets into the stack's images.
build_image() {
    local context torch
    context=$(mktemp -d "$ENGINE/build.XXXXXX")
    torch=$(grep '^torch==' "$(dirname "$0")/../../constraints.txt")
    "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 -d "$context/wheels" "$torch"
    cp -L /etc/ssl/certs/ca-certificates.crt "$context"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nfind-links = /opt/wheels\n' >"$context/pip.conf"
    printf '%s\n' "FROM $IMAGE" "COPY ca-certificates.crt /etc/ssl/certs/" "COPY pip.conf /etc/" \
        "COPY wheels /opt/wheels" >"$context/Dockerfile"
    printf 'services: {builder: {image: "%s", build: .}}\n' "$BUILDER" >"$context/docker-compose.yml"
    docker compose --project-directory "$context" -f "$context/docker-compose.yml" build --quiet >"$ENGINE/build.log" 2>&1 ||
        { tail -5 "$ENGINE/build.log" >&2; exit 1; }
    rm -rf "$context"
}

start_engine() {
    local absent=() pair
    for pair in dockerd:docker.io docker:docker.io runsc:runsc debootstrap:debootstrap iptables:iptables; do
        command -v "${pair%%:*}" >/dev/null || absent+=("${pair#*:}")
    done
    if [ ${#absent[@]} -gt 0 ]; then
        if ! command -v apt-get >/dev/null; then
            echo "engine.sh: without apt-get it cannot install ${absent[*]}; install them, or set SANDBOX_DOCKER_HOST" >&2
            exit 69
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${absent[@]}"
    fi
    docker compose version >/dev/null 2>&1 ||
        fetch docker-compose usr/libexec/docker/cli-plugins/docker-compose "$HOME/.docker/cli-plugins/docker-compose"
    cat >"$ENGINE/daemon.json" <<END
{
  "data-root": "$ENGINE/data", "exec-root": "$ENGINE/exec", "pidfile": "$ENGINE/pid",
  "hosts": ["unix://$ENGINE/docker.sock"],
  "runtimes": {"runsc": {"path": "$(command -v runsc)", "runtimeArgs": ["--network=none"]}}
}
END
    # Not of this process group, and without our locks: it outlives this command where another one uses it too.
    setsid dockerd --config-file "$ENGINE/daemon.json" >"$ENGINE/log" 2>&1 8>&- 9>&- &
    local engine=$!
    for _ in $(seq 150); do
        docker version >/dev/null 2>&1 && return
        if ! kill -0 "$engine" 2>/dev/null; then
            tail -5 "$ENGINE/log" >&2
            exit 69
        fi
        sleep 0.2
    done
    echo "engine.sh: the engine does not answer; see $ENGINE/log" >&2
    exit 69
}

finish() {
    # The last one to use the engine ends it.
    flock 8
    flock -u 9
    if flock -n -x 9 && [ -f "$ENGINE/pid" ]; then
        local engine
        engine=$(cat "$ENGINE/pid")
        kill "$engine" 2>/dev/null || true
        for _ in $(seq 150); do kill -0 "$engine" 2>/dev/null && sleep 0.2 || break; done
    fi
}

export DOCKER_HOST=unix://$ENGINE/docker.sock
flock 8
flock -s 9
trap finish EXIT
docker version >/dev/null 2>&1 || start_engine
docker image inspect "$IMAGE" >/dev/null 2>&1 || base_image
docker image inspect "$BUILDER" >/dev/null 2>&1 || build_image
flock -u 8

export SANDBOX_DOCKER_HOST=$DOCKER_HOST SANDBOX_DOCKER_IMAGE=$IMAGE
export BASE_IMAGE=$IMAGE BUILD_IMAGE=$BUILDER TORCH_INDEX=
unset DOCKER_HOST
"$@" 8>&- 9>&-
