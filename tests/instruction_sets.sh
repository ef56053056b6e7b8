#!/usr/bin/env bash
# Runs the tests marked `instruction_sets` under every instruction set that this CPU has and that can be imposed on it, so that one
# machine sees what another would.
#
# oneDNN, inside OpenVINO and PyTorch, reads ONEDNN_MAX_CPU_ISA (older: DNNL_MAX_CPU_ISA); PyTorch's own kernels read
# ATEN_CPU_CAPABILITY, MKL reads MKL_ENABLE_INSTRUCTIONS. ONNX Runtime's MLAS has no such switch: it runs as the CPU is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
# Only the files that hold such tests: collecting all of them takes longer than running these.
mapfile -t files < <(grep -rl 'mark\.instruction_sets' tests --include='test_*.py')
has() { grep -qwm1 "$1" /proc/cpuinfo 2>/dev/null; }

tested() {
    local limit=$1 aten=$2 mkl=$3
    echo "instruction set: $limit"
    ONEDNN_MAX_CPU_ISA=$limit DNNL_MAX_CPU_ISA=$limit ATEN_CPU_CAPABILITY=$aten MKL_ENABLE_INSTRUCTIONS=$mkl \
        "$python" -m pytest -m instruction_sets -q -n0 "${files[@]}"
}

if ! has avx2; then
    echo "instruction sets: this CPU has no AVX2 to go down to; nothing to impose"
    exit 0
fi
# The set that the CPU itself has is what `make test` runs under.
if has avx512bw; then tested AVX2 avx2 AVX2; fi
if has avx512_bf16; then tested AVX512_CORE avx512 AVX512; fi
if has amx_bf16; then tested AVX512_CORE_BF16 avx512 AVX512; fi
