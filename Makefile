# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
# faiss comes in two builds that exclude each other; a machine with an NVIDIA driver takes the GPU one.
EXTRA  ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
KEEP   ?=
BENCH  ?=
BIN    := $(VENV)/bin

.PHONY: help demo test lint bench clean
.DEFAULT_GOAL := help

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run-$(EXTRA) ## Index the docstrings of installed packages, serve them, ask questions. KEEP=1 leaves it serving.
	$(BIN)/python cluster/demo.py $(if $(KEEP),--keep)

test: $(VENV)/.dev-$(EXTRA) ## Install what the tests need and run all of them. ARGS="-k name" picks.
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev-$(EXTRA) ## Check format, style, types and the import contracts.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev-$(EXTRA) ## Run one benchmark: make bench BENCH=quality ARGS="--dataset DIR".
	$(BIN)/python -m benchmarks.$(or $(BENCH),$(error name one: make bench BENCH=$(basename $(notdir $(wildcard benchmarks/[a-z]*.py))))) $(ARGS)

clean: ## Remove the virtual environment and what the demo left.
	rm -rf $(VENV) .demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-$(EXTRA): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	@touch $@

$(VENV)/.dev-$(EXTRA): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA),dev]'
	@touch $@ $(VENV)/.run-$(EXTRA)
