# Needs Python 3.11 or newer and make, nothing else. `make` lists what there is.

VENV   := .venv
BIN    := $(VENV)/bin
# The interpreter for the virtual environment: `make PYTHON=/path/to/python demo` overrides the search.
PYTHON ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types check chaos bench clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make the virtual environment and install DreamCuts into it

# Runs again only when what is to be installed has changed. The file is made last, so a run that was cut short
# is repeated.
$(VENV)/.installed: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" bin/setup $(VENV)
	@touch $@

demo: setup ## Make a whole video on this machine, without any account: out/demo.mp4
	@exec $(BIN)/dreamcuts demo

test: setup ## Run the whole suite against a real Postgres
	@exec $(BIN)/pytest -n 2 $(ARGS)

lint: setup ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## Check types
	@$(BIN)/mypy

check: lint types test ## Everything that CI checks

chaos: setup ## Break workers, Postgres and providers at random and check every promise (CHAOS_SEED=n, KILLS=n)
	@exec $(BIN)/python -m tests.chaos $(ARGS)

bench: ## Compare with other Postgres queues: docs/benchmarks.md (QUICK=1: a small run)
	@PYTHON="$(PYTHON)" exec bin/bench $(if $(QUICK),--quick) $(ARGS)

clean: ## Remove what was built, the demo's database, and the virtual environments
	@bin/clean $(VENV)
