# Everything runs in .venv, made on first use. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
QUESTION ?= What is the capital of France? Answer in one sentence.

.PHONY: help run test check clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

run: $(VENV)/ready  ## fetch a small real model once and read its answer
	@model="$$($(BIN)/python tools/fetch.py smollm2 models)" && $(BIN)/martlet generate "$$model" "$(QUESTION)" --greedy

test: $(VENV)/ready  ## the whole suite
	$(BIN)/python -m pytest

check: $(VENV)/ready  ## format, lint, types, layers, fast tests
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow"

clean:  ## removes the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
