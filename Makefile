# `make` lists the targets. Everything installs what it needs first, once: see tools/setup.sh.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Programs of the environment come first: the tests call `corral`, `node` and `npm` by name.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

VENV_PYTHON := .venv/bin/python
ARGS ?=
N ?= 6000

.PHONY: help setup setup-test demo test fuzz crash chaos soak check bench density serve conformance fmt lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
	  printf '  make %-12s %s\n' "$$target" "$$text"; done

setup: ## Make this machine ready: packages, Python environment, guest, default image (as root)
	@tools/setup.sh run

setup-test:
	@tools/setup.sh test

demo: setup ## A real agent mends a real library in a devbox
	@$(VENV_PYTHON) -m examples.main_job $(ARGS)

test: setup-test ## Run all tests (ARGS="-k name" for some)
	@tools/test.sh $(ARGS)

fuzz: SECONDS ?= 300
fuzz: SEED ?= 1
fuzz: export FUZZ_SEED = $(SEED)
fuzz: export FUZZ_SECONDS = $(shell expr $(SECONDS) / 5)
fuzz: setup-test ## Random requests to the API, random bytes between guest and host (SECONDS=300 SEED=1)
	@cargo test --quiet --locked --manifest-path guest/Cargo.toml random
	@$(VENV_PYTHON) -m pytest -k "random or document_names" tests/unit/runtime/guest/test_guest_fuzz.py \
	  tests/integration/guest/test_guest_fuzz.py tests/integration/api/test_fuzz.py $(ARGS)

crash: setup-test ## The server dies at every step of snapshots, forks, suspends and resumes (some minutes)
	@CRASH_ROUNDS=0 $(VENV_PYTHON) -m pytest -s tests/crash/test_every_step.py $(ARGS)

chaos: SECONDS ?= 60
chaos: setup-test ## Harm a server and its boxes, and judge what it says (SECONDS=60 SEED=7)
	@$(VENV_PYTHON) -m tests.crash.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

soak: SECONDS ?= 600
soak: N = 1000
soak: SEED ?= 1
soak: setup-test ## Replace boxes of many, and count what is left (N=1000 SECONDS=600)
	@$(VENV_PYTHON) -m bench.soak --boxes $(N) --seconds $(SECONDS) --seed $(SEED)

check: setup-test ## Format, lint, types, style tests
	@tools/check.sh

bench: setup-test ## Measure raw crun, Corral and Docker side by side
	@$(VENV_PYTHON) -m bench $(ARGS)

density: setup-test ## So many idle boxes at once, each answering (N=6000)
	@$(VENV_PYTHON) -m bench.density $(N)

serve: setup ## Start the server (ARGS="--listen HOST:PORT --data DIR")
	@exec .venv/bin/corral serve $(ARGS)

conformance: setup ## Show that the runtime on this host keeps its contract
	@.venv/bin/corral conformance $(ARGS)

fmt: setup-test ## Format all sources
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix --exit-zero --quiet .
	@cargo fmt --manifest-path guest/Cargo.toml

lock: ## Choose the newest versions of all Python dependencies (tools/constraints.txt)
	@tools/lock.sh

clean: ## Remove what was built in this tree; images and data folders stay
	rm -rf .venv .make guest/target guest/dist bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
