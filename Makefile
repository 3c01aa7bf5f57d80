# Two commands: `make run` shows what peachctl does, `make test` proves it. `make help` lists the rest.
# Needed: Python >= 3.11 with its venv module, git, make. Everything else goes into .venv, from hashed lock files.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# What is installed here is compiled when it is first used (EXACT below); without its cache every start would do it again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
# Not compiled in advance: that is two thirds of the installation, for modules of which a run loads a tenth.
EXACT := --require-hashes --only-binary :all: --no-compile
JOBS ?= 2
ARGS ?=
LOCK := pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header $(UPGRADE)
EXAMPLE := examples/workflows/nile.bin

.PHONY: help run test check bench proof lock docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: $(VENV)/run.stamp  ## installs peachctl and runs an example workflow
	@$(BIN)/peachctl run $(EXAMPLE)
	@echo
	@echo "Next:  source $(BIN)/activate      then  peachctl queue list  or  peachctl example list"

test: check $(VENV)/servers.stamp  ## installs what the tests need, lints, checks types, runs all tests
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS) </dev/null

check: $(VENV)/test.stamp  ## lint, format, types and layers alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/test.stamp $(VENV)/servers.stamp  ## the benchmarks, each with its floor in the same run; ARGS="decode" takes one
	@$(BIN)/python benchmarks/run.py $(ARGS)

proof: $(VENV)/test.stamp $(VENV)/servers.stamp  ## the long campaigns; ARGS="--help" lists them with their options
	@$(BIN)/python tests/proof.py $(ARGS)

docs: $(VENV)/test.stamp  ## writes what is generated: docs/cli.md, docs/faults.md, docs/run.svg
	@$(BIN)/python docs/reference.py
	@$(BIN)/python docs/faults.py
	@$(BIN)/python docs/picture.py

lock: $(VENV)/test.stamp  ## resolves the lock files anew (UPGRADE=--upgrade for newer versions)
	@$(BIN)/uv $(LOCK) --group build -o .ci/run.lock
	@$(BIN)/uv $(LOCK) --group dev --extra imaging -c .ci/run.lock -o .ci/test.lock

clean:  ## removes what make made, not the data of runs
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/venv.stamp:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed, none was found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: $(PYTHON) is not Python 3.11 or newer" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: $(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "make: a virtual environment in $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/venv.stamp .ci/run.lock pyproject.toml
	@echo "make: peachctl and what it needs to run (.ci/run.lock)"
	@$(PIP) install $(EXACT) -r .ci/run.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp .ci/test.lock
	@echo "make: what the tests need (.ci/test.lock)"
	@$(PIP) install $(EXACT) -r .ci/test.lock
	@touch $@

$(VENV)/servers.stamp: $(VENV)/test.stamp tests/servers/install.py
	@$(BIN)/python -m tests.servers.install
	@touch $@
