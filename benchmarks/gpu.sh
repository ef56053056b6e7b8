#!/usr/bin/env bash
# Everything that needs a CUDA machine, in one go: latency of every system of Table 5 on ONNX Runtime's CUDA, TensorRT and
# TensorRT-RTX providers, where they load; TensorRT plans with their parity, where TensorRT is installed; accuracy of a
# checkpoint that was trained here. Results: benchmarks/results/gpu-*.
#
#   bash benchmarks/gpu.sh [FOLDER FOR WHAT IS BUILT]
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-build/gpu}
results=benchmarks/results
systems=(flf dlf capex graphcape)

command -v nvidia-smi >/dev/null || { echo "no nvidia-smi: this needs an NVIDIA card and its driver" >&2; exit 1; }
card=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
echo "on $card"
mkdir -p "$work" "$results"

# 1. An environment with the CUDA builds. onnxruntime and onnxruntime-gpu are the same Python package: only one may be there.
python="$work/venv/bin/python"
if [ ! -x "$python" ]; then
  python3 -m venv "$work/venv"
  "$python" -m pip install --quiet torch==2.13.0
  "$python" -m pip install --quiet -e '.[demo,train,triton,bench]'
  "$python" -m pip uninstall --quiet --yes onnxruntime
  "$python" -m pip install --quiet 'onnxruntime-gpu[cuda,cudnn]>=1.24,<2'
fi
capeserve="$work/venv/bin/capeserve"

# 2. The paper's systems at full size. Random weights: how long a run takes does not depend on them.
repositories=()
for system in "${systems[@]}"; do
  repository="$work/$system"
  [ -f "$repository/cape.json" ] || "$capeserve" export --untrained "configurations/models/$system.json" --output "$repository"
  repositories+=(--repository "$repository")
done

# 3. Latency cold and warm, throughput by batch size, on every provider that works here.
for provider in CUDAExecutionProvider TensorrtExecutionProvider NvTensorRTRTXExecutionProvider; do
  name="gpu-${provider%ExecutionProvider}"
  if "$capeserve" bench engine "${repositories[@]}" --provider "$provider" --device "$card" \
      --output "$results" --name "$name"; then
    echo "wrote $results/$name.md"
  else
    echo "$provider does not work here; what it said stands above" >&2
  fi
done

# 4. TensorRT plans for Triton, compared with PyTorch on the card.
if "$python" -c "import tensorrt" 2>/dev/null; then
  "$capeserve" export --untrained configurations/models/flf.json --output "$work/flf-plans" --force --tensorrt \
    --triton-device gpu | tee "$results/gpu-tensorrt-parity.txt"
else
  echo "TensorRT is not installed in $work/venv: no plans (pip install tensorrt)" >&2
fi

# 5. A real Triton on the card, with the wheel's server, and the service in front of it.
triton_log="$work/triton.log"
"$capeserve" triton --gpu --repository "$work/flf" --http-port 18000 --grpc-port 18001 --metrics-port 18002 \
  >"$triton_log" 2>&1 &
triton=$!
trap 'kill "$triton" 2>/dev/null || true' EXIT
for _ in $(seq 600); do
  grep -q "Triton is ready" "$triton_log" && break
  kill -0 "$triton" 2>/dev/null || break
  sleep 1
done
if grep -q "Triton is ready" "$triton_log"; then
  "$capeserve" serve --repository "$work/flf" --engine triton --triton-url 127.0.0.1:18001 --port 18050 --metrics-port 0 \
    >"$work/serve.log" 2>&1 &
  service=$!
  trap 'kill "$service" "$triton" 2>/dev/null || true' EXIT
  "$capeserve" evaluate --target 127.0.0.1:18050 --data synthetic --split test --episodes 1 --queries 4 \
    --output "$results/gpu-triton" && curl -s http://127.0.0.1:18002/metrics > "$results/gpu-triton/triton-metrics.txt"
  kill "$service"
else
  echo "Triton does not run here; the last it said:" >&2
  tail -n 5 "$triton_log" >&2
fi
kill "$triton" 2>/dev/null || true

# 6. Accuracy on the card of the demonstration's checkpoint.
"$capeserve" evaluate --checkpoint examples/checkpoint --device cuda --data synthetic --split test --episodes 4 --queries 8 \
  --output "$results/gpu-accuracy"
echo "done: $results/gpu-*"
