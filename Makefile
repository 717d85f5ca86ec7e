# To get started: `make demo` and `make test`.
PYTHON ?= python3
# For another build of PyTorch (CUDA, ROCm): make TORCH="torch==2.13.0 --index-url ..." env
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
NOTEBOOKS ?= cache
MINUTES ?= 9
# Idle OpenMP threads sleep instead of spinning, which would slow down other jobs on a shared machine.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help env demo test test-slow test-real lint types docs wheel gpu table1 bench-table1 clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

env: $(READY)  ## Create the environment in .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("deepfits needs Python 3.11 or newer") if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "environment, step 1 of 2: PyTorch ($(TORCH))"
	$(BIN)/python -m pip install --no-input --constraint constraints.txt $(TORCH)
	@echo "environment, step 2 of 2: deepfits and its dependencies (some 150 packages, about two minutes)"
	$(BIN)/python -m pip install --no-input --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)  ## Simulate a sky, run every stage on it and write a report
	$(BIN)/deepfits demo demo

test: $(READY)  ## Run the tests (WORKERS=1 for one process)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

test-slow: $(READY)  ## Run the slow tests
	$(BIN)/python -m pytest -m slow

test-real: $(READY)  ## Run the tests on real survey images (../shared/data or DEEPFITS_REAL_DATA)
	$(BIN)/python -m pytest -m real -rs

lint: $(READY)  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## Check types
	$(BIN)/mypy

docs: $(READY)  ## Build the documentation into docs/_build/html (NOTEBOOKS=off: without running the tutorials)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -D nb_execution_mode=$(NOTEBOOKS) docs docs/_build/html

wheel: $(READY)  ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

gpu:  ## Run all GPU measurements, into gpu/gpu.json (MINUTES=9); needs only Python with PyTorch
	$(PYTHON) benchmarks/gpu.py --minutes $(MINUTES) --out gpu

bench-%: $(READY)  ## Run a benchmark: make bench-fit, bench-train, ...; JSON on the last line
	$(BIN)/python benchmarks/$*.py

table1: $(READY)  ## Reproduce the redshift table (M19 Table 1) on both skies; one to two hours on two cores
	$(BIN)/python -m pip install --no-input --quiet --constraint constraints.txt lephare
	$(BIN)/python benchmarks/table1.py

bench-table1: table1

clean:  ## Remove build products (not the environment)
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
