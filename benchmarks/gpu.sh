#!/usr/bin/env bash
# One check of everything that needs a GPU, from a checkout, installed or not: benchmarks/gpu.sh --help says what.
# PYTHON names the interpreter (python3).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" "$root/benchmarks/gpu.py" "$@"
