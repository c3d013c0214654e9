#!/usr/bin/env bash
# What a GPU makes of this: one part after the other, each a table on stdout and JSON in $OUT where it is set.
#
#     benchmarks/gpu.sh                       on a machine with CUDA: the repository and pip are all it needs
#     benchmarks/gpu.sh --only nf4            one half of it (bfloat16 or nf4)
#     benchmarks/gpu.sh --device cpu --small  the same commands in minutes on a CPU, to see that they run
#
# PYTHON names an interpreter that has the packages already; without it a virtual environment is made.
set -euo pipefail
cd "$(dirname "$0")/.."

refuse() { echo "benchmarks/gpu.sh: $1" >&2; exit 2; }

device=cuda parameters=1500 dtype=bfloat16 rounds=2 messages=64 tokens=96 halves="none nf4"
while [ $# -gt 0 ]; do
    case $1 in
        --device) [ $# -gt 1 ] || refuse "--device needs a name, e.g. cuda:1"; device=$2; shift 2 ;;
        --only) case ${2:-} in
                bfloat16) halves=none ;;
                nf4) halves=nf4 ;;
                *) refuse "--only needs bfloat16 or nf4" ;;
            esac; shift 2 ;;
        --small) parameters=5 dtype=float32 rounds=1 messages=8 tokens=16; shift ;;
        *) refuse "unknown argument $1; there are --device NAME, --only bfloat16|nf4 and --small" ;;
    esac
done

on_gpu=$(case $device in cuda*) echo yes ;; esac)
instead="benchmarks/gpu.sh --device cpu --small runs the same commands without one"
if [ -n "$on_gpu" ]; then
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null \
        || refuse "no NVIDIA GPU answers here (nvidia-smi); $instead"
fi
if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    test -x "$PYTHON" || python3 -m venv .venv
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[decoder,cuda]'
fi
export PYTHONPATH=$PWD/shared:$PWD/decoder-service${PYTHONPATH:+:$PYTHONPATH}
"$PYTHON" -c 'import bitsandbytes, decoder_service' \
    || refuse "$PYTHON lacks packages: $PYTHON -m pip install -c constraints.txt -e '.[decoder,cuda]'"
if [ -n "$on_gpu" ]; then
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
        || refuse "the torch of $PYTHON finds no CUDA device: it is the CPU build, or the driver is too old"
fi
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

echo "## Part 1: the decoder, a random Qwen2 of $parameters M parameters, $messages programs of $tokens tokens"
for quantization in $halves; do
    echo "### weights: $([ "$quantization" = none ] && echo "$dtype" || echo "$quantization")"
    "$PYTHON" benchmarks/decoder.py --model random --parameters "$parameters" --device "$device" \
        --dtype "$dtype" --quantization "$quantization" --rounds "$rounds" --messages "$messages" \
        --max-new-tokens "$tokens" --skip serve --bandwidth --json-file "$out/decoder-$quantization.json"
done
if [ -n "$on_gpu" ]; then
    echo "### beside transformers' own continuous batching, weights: $dtype"
    "$PYTHON" benchmarks/decoder.py --model random --parameters "$parameters" --device "$device" \
        --dtype "$dtype" --rounds "$rounds" --messages "$messages" --max-new-tokens "$tokens" \
        --skip "serve,generate each" --also generate_batch --json-file "$out/decoder-pages.json" \
        || echo "not measured: generate_batch failed, see above"
fi
echo "JSON: $out"
