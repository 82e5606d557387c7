# Everything that a newcomer needs is two targets: `make demo` and `make test`.
# Each says what it does while it does it, and installs what it lacks.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SHIM   := $(addprefix ratchet/shim/$(shell uname -m)/,ratchet launcher)
RUN    := hack/run
# Processes that run tests. One for a part of the tests (TESTS), so that -s and a debugger work.
JOBS   ?= $(if $(TESTS),0,4)
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install system demo test check soak lint unit docs bench cluster-up cluster-down image manifests e2e clean

help:  ## what there is to do
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) $(SHIM)  ## make .venv, with the command .venv/bin/ratchet, and nothing more

$(STAMP): pyproject.toml
	@echo "==> Python packages, into $(VENV)"
	@$(RUN) venv $(PYTHON) $(VENV)
	@touch $@

$(SHIM): $(wildcard shim/*)
	@$(RUN) compiled $@

system:
	@$(RUN) system

# Both stories, and one at a time: what is to be kept up is the second.
demo: system install  ## two nodes, pods, links, pings, on this machine: three stories, the last of routers
	@$(if $(filter --down,$(DEMO)),,$(BIN)/ratchet demo $(filter-out --keep,$(DEMO)))
	@$(if $(filter --down,$(DEMO)),,$(BIN)/ratchet demo late-peer $(filter-out --keep,$(DEMO)))
	@$(BIN)/ratchet demo cloud-router $(DEMO)

test: system install lint unit  ## all checks and tests

check: install lint  ## the fast lane: lint, types, unit and protocol tests; without root
	@echo "==> unit and protocol tests"
	@$(PYTEST) tests/unit tests/protocol

soak: system install  ## the long forms of the searches and of the stateful test; hours
	@echo "==> exhaustive tests"
	@RATCHET_EXHAUSTIVE=1 $(BIN)/python -m ratchet.dev.rootless $(PYTEST) tests/protocol tests/agent/test_stateful.py

lint: install
	@echo "==> ruff, mypy --strict, import-linter"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@echo "==> The documentation"
	@$(BIN)/python hack/docs.py --check
	@$(RUN) site $(BIN)/mkdocs

docs: install  ## the reference in docs/ from the code, and the site, into build/site
	@$(BIN)/python hack/docs.py
	@$(RUN) site $(BIN)/mkdocs
	@echo "    build/site/index.html"

unit: system install
	@echo "==> tests"
	@$(BIN)/python -m ratchet.dev.rootless $(PYTEST) $(TESTS)

bench: system install  ## figures, as ratios to what is run beside them
	@$(RUN) system_for_bench
	@$(BIN)/python -m ratchet.dev.rootless $(BIN)/python tests/bench/run.py

# What follows is for root: machines made of namespaces, with a Kubernetes that is built once (Go).
cluster-up: install  ## a real Kubernetes of two nodes on this machine
	@hack/cluster up

cluster-down:  ## and away with it
	@hack/cluster down

image: install  ## Ratchet's container image, into build/ratchet.tar
	@$(RUN) system_for_image
	@echo "==> The image"
	@hack/image

manifests: install  ## checkov over the manifests of every overlay
	@echo "==> The manifests"
	@$(RUN) manifests $(BIN)/kubectl build/checkov

e2e: image manifests  ## real Kubernetes, real pods; needs Go, and some minutes
	@$(RUN) system_for_cluster
	@echo "==> Kubernetes"
	@hack/cluster build
	@echo "==> End to end"
	@$(BIN)/python -m pytest tests/e2e

clean:  ## forget what was built
	@rm -rf $(VENV) build dist ratchet/shim .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
