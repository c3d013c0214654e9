#!/usr/bin/env bash
# Trains in the foreground, and keeps what it prints in logs/training_TIME.log and, on a GPU, what the GPU does
# in logs/gpu_TIME.csv:
#   bash services/runpod/run_training.sh [SETTINGS of `psuedoptimal train text`]
# Without settings: --config psuedoptimal.yaml. On several GPUs give --name, --decoder-url and --sandbox-url.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin="${PSUEDOPTIMAL_BIN:-.venv/bin}"
if [ ! -x "$bin/psuedoptimal" ]; then
    echo "run_training.sh: no $bin/psuedoptimal; run services/runpod/setup.sh first" >&2
    exit 2
fi
[ $# -gt 0 ] || set -- --config psuedoptimal.yaml
export HF_HOME="${HF_HOME:-$PWD/models}"

mkdir -p logs
stamp="$(date +%Y%m%d_%H%M%S)"
log="logs/training_$stamp.log"
echo "log: $log"

watcher=""
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,index,utilization.gpu,memory.used,power.draw --format=csv -l 30 \
        >"logs/gpu_$stamp.csv" 2>/dev/null &
    watcher=$!
fi

# The trainer in the background, so that a signal reaches this shell at once and is passed on: it then writes a
# checkpoint and ends; `tee` ends after it.
"$bin/psuedoptimal" train text "$@" > >(exec tee -a "$log") 2>&1 &
trainer=$!
trap 'kill -TERM "$trainer" 2>/dev/null || true' TERM INT HUP

code=0
wait "$trainer" || code=$?
while kill -0 "$trainer" 2>/dev/null; do # `wait` was interrupted by a signal
    code=0
    wait "$trainer" || code=$?
done
[ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
echo "training ended with code $code; log: $log"
exit "$code"
