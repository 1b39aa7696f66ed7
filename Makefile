# Everything a person does with this checkout. `make help` lists it.
# the first interpreter of a version that the pinned set supports
PYTHON ?= $(or $(shell for p in python3 python3.12 python3.11; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin
STORE ?= store
SOURCE ?= environment-docs
PAGES ?=
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
# cpu: torch's CPU build where the installer is offered one; cuda: what the registry has (several GB).
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)

.DEFAULT_GOAL := help
.PHONY: help setup demo test verify check bench up constraints clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed-$(TORCH)  ## create .venv and install the pinned set (TORCH=cpu or TORCH=cuda to choose)

$(VENV)/.installed-%: pyproject.toml constraints.txt infra/setup.sh
	infra/setup.sh "$(PYTHON)" "$(VENV)" "$*"
	@touch $@

demo: setup  ## raw pages to a trained model in minutes (SOURCE=path-or-URL, PAGES=number or all, STORE=folder)
	$(BIN)/tokenmill pipeline --source "$(SOURCE)" --store "$(STORE)" $(if $(PAGES),--pages $(PAGES))

test: setup  ## the tests, at most 20 minutes on 2 cores
	$(BIN)/python -m pytest -m "not verify" -n 2 --dist loadfile

verify: setup  ## the long proofs (kills, servers, real pages), in parts: what passed on this tree is not run again
	tests/verify.sh $(BIN)/python

check: setup  ## lint, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## speed as ratios against the reference libraries, in one run
	$(BIN)/python -m tests.benchmarks

up: setup  ## Prefect and MLflow on this store's history, on loopback addresses, until Ctrl-C (STORE, PREFECT_PORT, MLFLOW_PORT)
	$(BIN)/tokenmill up --store "$(STORE)" --prefect-port "$(PREFECT_PORT)" --mlflow-port "$(MLFLOW_PORT)"

constraints: setup  ## write constraints.txt from what is installed, after changing a dependency
	infra/constraints.sh "$(BIN)/python" > constraints.tmp && mv constraints.tmp constraints.txt

clean:  ## remove .venv and caches; the store stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
