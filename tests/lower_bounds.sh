#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows into an environment of their own, and imports every module.
#   lower_bounds.sh UV PYTHON [FOLDER OF THE ENVIRONMENT]
set -euo pipefail
uv=$(realpath "$1"); python=$2; environment=${3:-$(mktemp -d)/environment}
cd "$(dirname "$0")/.."
extras="bench demo export llm openvino redis serve tracing train triton"
for extra in gateway heif; do grep -q "^$extra = \[" pyproject.toml && extras="$extras $extra"; done
requirements=$(mktemp)
echo "resolving the lowest versions of: $extras"
# shellcheck disable=SC2046
"$uv" pip compile --quiet --resolution lowest-direct --no-emit-index-url --no-annotate --no-header --python "$python" \
  pyproject.toml $(printf -- '--extra %s ' $extras) --output-file "$requirements"
"$uv" venv --quiet --clear --python "$python" "$environment"
echo "installing $(grep -c == "$requirements") packages into $environment"
"$uv" pip install --quiet --python "$environment/bin/python" --requirement "$requirements"
"$uv" pip install --quiet --python "$environment/bin/python" --no-deps --editable .
"$environment/bin/python" tests/import_everything.py
