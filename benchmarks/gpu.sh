#!/usr/bin/env bash
# What a GPU makes of this: one part after the other, each a table on stdout and JSON in $OUT where it is set.
#
#     benchmarks/gpu.sh                       on a machine with CUDA: the repository and pip are all it needs
#     benchmarks/gpu.sh --device cpu --small  the same commands in a minute on a CPU, to see that they run
#
# PYTHON names an interpreter that has the packages already; without it a virtual environment is made.
set -euo pipefail
cd "$(dirname "$0")/.."

device=cuda parameters=1500 dtype=bfloat16 rounds=3 messages=64 tokens=96
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:?--device needs a name}; shift 2 ;;
        --small) parameters=5 dtype=float32 rounds=1 messages=8 tokens=16; shift ;;
        *) echo "benchmarks/gpu.sh: unknown argument $1; there are --device NAME and --small" >&2; exit 2 ;;
    esac
done

if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    test -x "$PYTHON" || python3 -m venv .venv
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[decoder,cuda]'
fi
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "$device" = cuda ]; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi

echo "## Part 1: the decoder, a random Qwen2 of $parameters M parameters, $messages programs of $tokens tokens"
for quantization in none nf4; do
    echo "### weights: $([ $quantization = none ] && echo $dtype || echo $quantization)"
    "$PYTHON" benchmarks/decoder.py --model random --parameters "$parameters" --device "$device" \
        --dtype "$dtype" --quantization "$quantization" --rounds "$rounds" --messages "$messages" \
        --max-new-tokens "$tokens" --skip serve --bandwidth --json-file "$out/decoder-$quantization.json"
done
echo "JSON: $out"
