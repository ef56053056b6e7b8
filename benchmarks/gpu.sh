#!/usr/bin/env bash
# Everything that needs a CUDA machine, in one go: latency of every system of Table 5 on ONNX Runtime's CUDA, TensorRT and
# TensorRT-RTX providers, where they load; TensorRT plans with their parity, where TensorRT is installed; the
# demonstration's checkpoint on a real Triton on the card and in PyTorch on it. Results: benchmarks/results/gpu*.
#
#   bash benchmarks/gpu.sh [--python PYTHON] [--wheels FOLDER] [FOLDER FOR WHAT IS BUILT [FOLDER FOR RESULTS]]
#
# --python: an environment that has everything already; nothing is installed. --wheels: install from this folder, without
# a network. For one system within five minutes: capeserve bench gpu.
# A step that fails or takes too long keeps no other from running; the end lists it, and the exit code is 1.
set -euo pipefail
cd "$(dirname "$0")/.."
existing="" pip_options=()
while [[ ${1:-} == --* ]]; do
  case $1 in
    --python) existing=$2 ;;
    --wheels) pip_options=(--no-index --find-links "$2") ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
work=${1:-build/gpu}
results=${2:-benchmarks/results}
systems=(flf dlf capex graphcape)
failed=()
background=()

command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: this needs an NVIDIA card and its driver" >&2; exit 1; }
card=$(nvidia-smi --query-gpu=name --format=csv,noheader)
card=${card%%$'\n'*}
echo "on $card"
mkdir -p "$work" "$results"

stop_background() {
  for process in "${background[@]}"; do kill "$process" 2>/dev/null || true; done
  wait
  background=()
}
trap stop_background EXIT

# attempt NAME SECONDS COMMAND…: a step, within its time.
attempt() {
  local name=$1 seconds=$2
  shift 2
  echo "== $name"
  timeout --foreground --kill-after=30 "$seconds" "$@" && return
  echo "$name: failed" >&2
  failed+=("$name")
  return 1
}

# says LOG TEXT PROCESS SECONDS: waits until a process in the background has logged a text.
says() {
  for _ in $(seq "$4"); do
    grep -q "$2" "$1" && return
    kill -0 "$3" 2>/dev/null || break
    sleep 1
  done
  echo "$1 ends with:" >&2
  tail -n 5 "$1" >&2
  return 1
}

# 1. An environment with the CUDA builds. onnxruntime and onnxruntime-gpu are the same Python package: only one may be there.
python="$work/venv/bin/python"
capeserve="$work/venv/bin/capeserve"
if [ -n "$existing" ]; then
  python=$existing
  capeserve="$work/capeserve"
  printf '#!/bin/sh\nexec "%s" -c "from cli.main import main; main()" "$@"\n' "$python" >"$capeserve"
  chmod +x "$capeserve"
elif [ ! -f "$work/venv/complete" ]; then
  rm -rf "$work/venv"
  python3 -m venv "$work/venv"
  "$python" -m pip install --quiet "${pip_options[@]}" torch==2.13.0
  "$python" -m pip install --quiet "${pip_options[@]}" -e '.[bench,demo,export-gpu,serve-gpu,train,triton]'
  "$python" -m pip install --quiet "${pip_options[@]}" onnxruntime-ep-nv-tensorrt-rtx-cu13 ||
    echo "no TensorRT for RTX plug-in here: its provider is left out" >&2
  touch "$work/venv/complete"
fi
attempt "torch on the card" 300 "$python" -c "import torch; print('torch', torch.__version__, 'on', torch.cuda.get_device_name())" || true

# 2. The paper's systems at full size. Random weights: how long a run takes does not depend on them.
repositories=()
for system in "${systems[@]}"; do
  repository="$work/$system"
  if [ -f "$repository/cape.json" ] || attempt "export $system" 1800 \
      "$capeserve" export --untrained "configurations/models/$system.json" --output "$repository"; then
    repositories+=(--repository "$repository")
  fi
done

# 3. Latency cold and warm, throughput by batch size, on every provider that works here. A provider that takes the process
# along costs the others nothing but time.
engines=("$capeserve" bench engine "${repositories[@]}" --device "$card" --output "$results" --name gpu)
attempt "all providers" 7200 "${engines[@]}" --provider CUDAExecutionProvider --provider TensorrtExecutionProvider \
  --provider NvTensorRTRTXExecutionProvider \
  || attempt "CUDA alone" 3600 "${engines[@]}" --provider CUDAExecutionProvider || true

# 4. TensorRT plans for Triton, compared with PyTorch on the card.
if "$python" -c "import tensorrt" 2>/dev/null; then
  attempt "TensorRT plans" 3600 "$capeserve" export --untrained configurations/models/flf.json --output "$work/flf-plans" \
    --force --tensorrt --triton-device gpu | tee "$results/gpu-tensorrt-parity.txt" || failed+=("TensorRT plans")
else
  echo "TensorRT is not installed in $work/venv: no plans (pip install 'capeserve[tensorrt]')" >&2
fi

# 5. The demonstration's checkpoint on a real Triton on the card, with the wheel's server, and the service in front of it.
demonstration="$work/demonstration"
through_triton() {
  [ -f "$demonstration/cape.json" ] || attempt "export demonstration" 1800 \
    "$capeserve" export --checkpoint examples/checkpoint --triton-device gpu --output "$demonstration" || return
  "$capeserve" triton --gpu --repository "$demonstration" --http-port 18000 --grpc-port 18001 --metrics-port 18002 \
    >"$work/triton.log" 2>&1 &
  background+=($!)
  says "$work/triton.log" "Triton is ready" $! 1200 || return
  "$capeserve" serve --repository "$demonstration" --engine triton --triton-url 127.0.0.1:18001 --registry sqlite:// \
    --port 18050 --metrics-port 0 >"$work/serve.log" 2>&1 &
  background+=($!)
  says "$work/serve.log" "serving " $! 120 || return
  attempt "evaluate through Triton" 3600 "$capeserve" evaluate --target 127.0.0.1:18050 --data synthetic --split test \
    --episodes 4 --queries 8 --output "$results/gpu-triton" || return
  "$python" -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:18002/metrics').read().decode(), end='')" \
    >"$results/gpu-triton/triton-metrics.txt"
}
through_triton || failed+=("Triton on the card")
stop_background

# 6. The same episodes in PyTorch on the card.
attempt "evaluate in PyTorch" 3600 "$capeserve" evaluate --checkpoint examples/checkpoint --device cuda --data synthetic \
  --split test --episodes 4 --queries 8 --output "$results/gpu-accuracy" || true

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "done: $results/gpu*"
