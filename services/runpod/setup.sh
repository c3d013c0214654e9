#!/usr/bin/env bash
# Once per pod, on a pod you have started by hand (e.g. RunPod's PyTorch template), from the repository's root:
#   bash services/runpod/setup.sh
# Installs the lab into .venv, and says what works here. HF_TOKEN: for gated models.
set -euo pipefail
cd "$(dirname "$0")/../.."

python="${PYTHON:-}"
for candidate in python3.13 python3.12 python3.11 python3; do
    if [ -z "$python" ] && command -v "$candidate" >/dev/null \
        && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python="$candidate"
    fi
done
if [ -z "$python" ]; then
    echo "setup.sh: needs Python 3.11 or later; set PYTHON to one, or take a newer template" >&2
    exit 2
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
extras="all"
command -v nvidia-smi >/dev/null && extras="all,cuda"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"

if [ -z "${HF_TOKEN:-}" ] && [ -z "${HF_TOKEN_PATH:-}" ]; then
    echo "setup.sh: HF_TOKEN is not set; models that are not gated load without it" >&2
fi
# Models stay on the volume, not on the container's disk.
mkdir -p "${HF_HOME:-$PWD/models}" logs
.venv/bin/psuedoptimal doctor
