#!/usr/bin/env bash
# Writes the images' dependencies with their hashes, from pyproject.toml: bash k8s/containers/lock.sh (needs uv; `make lock` has it).
set -euo pipefail
cd "$(dirname "$0")"

lock() {
  local output=$1
  shift
  uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 ../../pyproject.toml "$@" --output-file "$output"
}

lock service.requirements.txt --extra serve --extra triton --extra tracing --extra redis --extra openvino
lock exporter.requirements.txt --extra export --extra demo

# PyTorch for CPUs comes from its own index and without these: see exporter.Dockerfile.
awk '/^[a-z]/ { left_out = /^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ } !left_out' exporter.requirements.txt > partial
mv partial exporter.requirements.txt
