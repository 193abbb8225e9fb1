# Everything runs in .venv, made on first use. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
QUESTION ?= What is the capital of France? Answer in one sentence.

.PHONY: help run test check clean bench-kernels sanitize neon

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

run: $(VENV)/ready  ## fetch a small real model once and read its answer
	@model="$$($(BIN)/python tools/fetch.py smollm2 models)" && $(BIN)/martlet generate "$$model" "$(QUESTION)" --greedy

# Files of tests side by side, each on one thread of torch: threads that outnumber the processors wait for each other.
test: $(VENV)/ready  ## the whole suite
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(VENV)/ready  ## format, lint, types, layers, fast tests
	$(BIN)/ruff format --check src tests examples
	$(BIN)/ruff check src tests examples
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow"

bench-kernels:  ## what each kernel reaches on one core, beside the measured peak
	cmake -S . -B build/develop -DMARTLET_PYTHON=OFF -DMARTLET_DEVELOP=ON
	cmake --build build/develop --parallel --target kernels_bench
	build/develop/kernels_bench

sanitize:  ## the engine's C++ tests under AddressSanitizer with UBSan, then ThreadSanitizer
	for each in address,undefined thread; do \
	  cmake -S . -B build/$$each -DMARTLET_PYTHON=OFF -DMARTLET_DEVELOP=ON -DMARTLET_SANITIZE=$$each && \
	  cmake --build build/$$each --parallel --target native_tests && build/$$each/native_tests || exit 1; \
	done

neon:  ## the C++ tests for aarch64, cross-compiled and run in an emulator, where both are installed
	@command -v aarch64-linux-gnu-g++ qemu-aarch64 > /dev/null || \
	  { echo "neon: skipped, needs aarch64-linux-gnu-g++ and qemu-aarch64"; exit 0; } && \
	cmake -S . -B build/aarch64 -DMARTLET_PYTHON=OFF -DMARTLET_DEVELOP=ON -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ && \
	cmake --build build/aarch64 --parallel --target native_tests && \
	for cpu in max neoverse-n1 cortex-a53; do \
	  MARTLET_EMULATED=1 qemu-aarch64 -cpu $$cpu -L /usr/aarch64-linux-gnu build/aarch64/native_tests || exit 1; \
	done

clean:  ## removes the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
