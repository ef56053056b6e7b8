# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tools that look at dependencies, apart from what they look at.
TOOLS := $(VENV)-tools
LOCK := requirements.lock

.DEFAULT_GOAL := help
.PHONY: help install test check format protos demo serve lock audit sbom clean

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(STAMP)  ## Create .venv with everything that development and the demonstration need

$(STAMP): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

check: $(STAMP)  ## Lint, types, import rules, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	cd protos && ../$(BIN)/buf lint

test: check  ## Everything that must hold
	$(BIN)/pytest

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP)  ## Regenerate the gRPC stubs
	$(BIN)/python protos/generate.py

demo: $(STAMP)  ## Export, serve, register a support, estimate: pictures and a latency table in demo/
	$(BIN)/capeserve demo

serve: $(STAMP)  ## The demonstration's server, left running on localhost:50051
	$(BIN)/capeserve demo --serve

$(TOOLS)/.installed: Makefile
	test -d $(TOOLS) || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1' 'pip-audit>=2.9,<3' 'cyclonedx-bom>=7,<8'
	touch $@

lock: $(TOOLS)/.installed  ## Pin by hash what a container of the service installs: requirements.lock
	$(TOOLS)/bin/uv pip compile pyproject.toml --extra redis --extra triton --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet \
		--output-file $(LOCK)

audit: $(TOOLS)/.installed  ## Known vulnerabilities of what the lock file pins
	$(TOOLS)/bin/pip-audit --requirement $(LOCK) --require-hashes --disable-pip --strict

sbom: $(TOOLS)/.installed  ## What the lock file pins as a CycloneDX bill of materials: build/sbom.json
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py requirements $(LOCK) --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json

clean:  ## Remove what was built, not the environment
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
