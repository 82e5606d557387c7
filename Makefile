# Start with `make demo` and `make test`. Both install what they need.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SHIM   := $(addprefix ratchet/shim/$(shell uname -m)/,ratchet launcher)
RUN    := hack/run
# Length and seed of `make chaos`. Without a seed, each run draws other steps.
MINUTES ?= 10
SEED   ?=
# Without bytecode, each process compiles what it imports again.
unexport PYTHONDONTWRITEBYTECODE
# Processes that run tests. One for a part of the tests (TESTS), so that -s and a debugger work. The tests of `make check`
# compute, and many of the others wait.
JOBS   ?= $(if $(TESTS),0,$(if $(filter check,$(MAKECMDGOALS)),$(shell nproc),4))
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
UNIT   := $(BIN)/python -m ratchet.dev.rootless $(PYTEST)
LINT   := $(RUN) lint $(BIN)

# Tests that have a long form.
SOAK   := tests/protocol tests/agent/test_stateful.py tests/agent/test_random_edits.py

# `make check` leaves out the slow tests, and draws fewer examples (tests/conftest.py).
FAST   := -m "not thorough" --hypothesis-profile=check

.DEFAULT_GOAL := help
.PHONY: help install system demo test check soak chaos lint unit docs bench cluster-up cluster-down image manifests e2e clean

help:  ## print this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) $(SHIM)  ## create .venv, with the command .venv/bin/ratchet

$(STAMP): pyproject.toml
	@echo "==> Installing Python packages in $(VENV)"
	@$(RUN) venv $(PYTHON) $(VENV)
	@touch $@

$(SHIM): $(wildcard shim/*)
	@$(RUN) compiled $@

system:
	@$(RUN) system

# One scenario at a time. With DEMO=--keep, the last one stays up.
demo: system install  ## run the three scenarios of the demo on this machine; DEMO=--keep keeps the last one up
	@$(if $(filter --down,$(DEMO)),,$(BIN)/ratchet demo $(filter-out --keep,$(DEMO)))
	@$(if $(filter --down,$(DEMO)),,$(BIN)/ratchet demo late-peer $(filter-out --keep,$(DEMO)))
	@$(BIN)/ratchet demo cloud-router $(DEMO)

# Lint takes one processor, and the tests do not always need both. Its output follows theirs.
test: system install  ## run all checks and tests
	@echo "==> Running the tests, and lint beside them"
	@$(RUN) beside "$(LINT)" $(UNIT) $(TESTS)

check: install  ## the fast lane: lint, types, unit and protocol tests but the slow ones; without root
	@echo "==> Running the unit and protocol tests, and lint beside them"
	@$(RUN) beside "$(LINT)" $(PYTEST) $(FAST) tests/unit tests/protocol

soak: system install  ## the long forms of the searches, of the random tests of agents and of the chaos run; hours
	@echo "==> exhaustive tests"
	@RATCHET_EXHAUSTIVE=1 $(BIN)/python -m ratchet.dev.rootless $(PYTEST) $(SOAK)
	@hack/chaos --minutes 60

chaos: system install  ## run three agents under random faults; MINUTES=10 SEED=1 choose the length and the steps
	@hack/chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: install  ## run ruff, mypy, import-linter, and the checks of the documentation
	@$(LINT)

docs: install  ## generate the reference in docs/ and the site in build/site
	@$(BIN)/python hack/docs.py
	@$(RUN) site $(BIN)/mkdocs
	@echo "    build/site/index.html"

unit: system install  ## run the tests; TESTS=tests/unit chooses some
	@echo "==> Running the tests"
	@$(UNIT) $(TESTS)

bench: system install  ## run the benchmarks; results are ratios to a reference
	@$(RUN) system_for_bench
	@$(BIN)/python -m ratchet.dev.rootless $(BIN)/python -m tests.bench.run

# The targets below need root, and Go to build Kubernetes once. Machines are sets of namespaces.
cluster-up: install  ## start a real Kubernetes with two nodes on this machine
	@hack/cluster up

cluster-down:  ## stop that Kubernetes and remove its files
	@hack/cluster down

image: install  ## build Ratchet's container image, build/ratchet.tar
	@$(RUN) system_for_image
	@echo "==> Building the image"
	@hack/image

manifests: install  ## check the manifests of every overlay with checkov
	@echo "==> Checking the manifests"
	@$(RUN) manifests $(BIN)/kubectl build/checkov

e2e: image manifests  ## run the end-to-end tests on a real Kubernetes; needs Go, takes minutes; TESTS chooses some
	@$(RUN) system_for_cluster
	@echo "==> Building Kubernetes"
	@hack/cluster build
	@echo "==> Running the end-to-end tests"
	@$(BIN)/python -m pytest $(or $(TESTS),tests/e2e)

clean:  ## remove .venv and all build products
	@rm -rf $(VENV) build dist ratchet/shim .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
