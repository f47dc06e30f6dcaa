# One command per job; nothing has to be typed before any of them. `make help` lists them.
# Needs python3 and make; uv of the version below comes with pip into .bootstrap/ unless it is there already.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.8
BIN := .venv/bin
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
PYTEST_ARGS ?=
HUSH := $(if $(wildcard .venv),--quiet)  # the first installation shows what it does
SOURCES := $(wildcard packages/*/src)

# What pip is told about this machine, uv hears too.
comma := ,
empty :=
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifneq ($(PIP_CERT),)
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= true
endif
export UV_HTTP_TIMEOUT ?= 300
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT UV_FROZEN

# The python3 of this machine where it is new enough; otherwise uv looks for another or brings one.
PYTHON := $(shell python3 -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null)
ifneq ($(PYTHON),)
export UV_PYTHON ?= $(PYTHON)
endif

# The uv of this machine where it has the pinned version; otherwise the bootstrapped one.
OWN_UV := .bootstrap/uv-$(UV_VERSION)/bin/uv
UV_BIN := $(shell uv --version 2>/dev/null | grep -qF 'uv $(UV_VERSION)' && command -v uv || echo $(OWN_UV))
export UV := $(if $(filter /%,$(UV_BIN)),$(UV_BIN),$(CURDIR)/$(UV_BIN))

# --- environment -------------------------------------------------------------------------------------------

$(OWN_UV):
	@echo "bringing uv $(UV_VERSION)"
	@python3 -m venv $(@D)/.. || { \
	  echo "python3 cannot make virtual environments here; install its venv module (Debian: python3-venv)" >&2; \
	  exit 1; }
	@$(@D)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'

# uv.lock is derived; whatever it is derived from has changed when the digest in .bootstrap/derived has.
.PHONY: lock
lock: $(filter $(OWN_UV),$(UV_BIN))
	@mkdir -p .bootstrap
	@{ echo "$${UV_FIND_LINKS:-} $${UV_DEFAULT_INDEX:-}"; cat pyproject.toml packages/*/pyproject.toml; } \
	  | cksum > .bootstrap/derived.new
	@if ! cmp -s .bootstrap/derived.new .bootstrap/derived; then rm -f uv.lock; fi
	@"$(UV)" lock --quiet
	@mv .bootstrap/derived.new .bootstrap/derived

.PHONY: sync
sync: lock  ## install everything, for work on Crucible
	@"$(UV)" sync --locked --all-packages $(HUSH)

.PHONY: pins
pins: sync  ## write the pins after a dependency was added or removed (versions that are there stay)
	@$(BIN)/python tools/pins.py write --keep-all
	@$(BIN)/python tools/parity.py pins

# --- the two commands --------------------------------------------------------------------------------------

.PHONY: quickstart
quickstart: lock  ## train the bundled tiny model and see what it learned
	@"$(UV)" sync --locked --inexact --no-dev --package crucible-cookbook --extra quickstart $(HUSH)
	@$(BIN)/crucible quickstart

.PHONY: test
test: sync  ## all tests, in parallel, with coverage
	@rm -f .coverage .coverage.*
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
	  --cov --cov-report=term --durations=15 $(PYTEST_ARGS)

# --- checks ------------------------------------------------------------------------------------------------

.PHONY: check check-lint check-types check-contracts check-pins
check: check-lint check-types check-contracts check-pins  ## lint, strict types, import contracts, pins

check-lint: sync
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

check-types: sync
	@$(BIN)/mypy --strict $(SOURCES) tools benchmarks

check-contracts: sync
	@$(BIN)/lint-imports --no-logo

check-pins: sync
	@$(BIN)/python tools/pins.py check
	@$(BIN)/python tools/parity.py check
	@"$(UV)" pip check --quiet --python $(BIN)/python

.PHONY: format
format: sync  ## put the code in the one format
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

.PHONY: docs-check
docs-check: sync  ## run every code block of the documentation
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/rules/test_rule_docs.py -n $(JOBS)

.PHONY: isolation
isolation: sync  ## each package's tests where only what it declares is installed; wheels outside the workspace
	@$(BIN)/python -m tox run

.PHONY: prove
prove: sync  ## every claim at full size; writes docs/evidence (PROOFS="name ..." for some)
	@$(BIN)/python tools/prove.py $(PROOFS)

.PHONY: parity-table
parity-table: sync  ## put the evidence of the recipes side by side into docs/parity.md
	@$(BIN)/python tools/recipes_table.py write

# --- products ----------------------------------------------------------------------------------------------

.PHONY: build
build: lock  ## all wheels and source archives into dist/
	@rm -rf dist
	@"$(UV)" build --all-packages --quiet --out-dir dist
	@rm -f dist/.gitignore && ls dist

.PHONY: tiny
tiny: sync  ## rebuild the bundled tiny model and its data
	@$(BIN)/python packages/crucible_tiny/build/build.py

.PHONY: clean
clean:  ## remove what was derived (environment, lock, caches, wheels)
	@rm -rf .venv .bootstrap .tox dist uv.lock .coverage .coverage.* htmlcov \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find packages tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
