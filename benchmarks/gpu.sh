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

# 5. Accuracy on the card of a checkpoint that was trained here, if there is one.
trained=build/training/demonstration/best
if [ -f "$trained/config.json" ]; then
  "$capeserve" evaluate --checkpoint "$trained" --device cuda --data synthetic --split test --episodes 10 \
    --output "$results/gpu-accuracy"
else
  echo "no $trained: capeserve train --config configurations/training/demonstration.yaml makes it" >&2
fi
echo "done: $results/gpu-*"
