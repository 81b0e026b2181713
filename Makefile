# The project's commands, the same by hand and in CI. Needs Python 3.11 or newer, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
MINUTES ?= 60
SCHEDULES ?= 200000
JOBS ?= 2
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo demo-cluster test battery soak lint bench docs clean

help:
	@echo "make demo          topics in the documentation of scientific Python, on this machine"
	@echo "make demo-cluster  the same on a Dask cluster of two worker processes"
	@echo "make test          all tests, in JOBS=2 processes"
	@echo "make battery       only the schedules of faults on real worker processes"
	@echo "make soak          SCHEDULES=200000 of the simulator, then random faults for MINUTES=60, with a report"
	@echo "make lint          ruff and mypy"
	@echo "make bench         all benchmarks beside their peers, as one table (QUICK=1: small ones)"
	@echo "make docs          the documentation, in docs/_build/html"

demo: $(VENV)/.has-demo
	$(BIN)/dask-petuum demo

demo-cluster: $(VENV)/.has-demo
	$(BIN)/dask-petuum demo --cluster

test: $(VENV)/.has-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

battery: $(VENV)/.has-test
	$(BIN)/python -m pytest -m battery tests/faults/test_battery.py

soak: $(VENV)/.has-test
	PETUUM_SCHEDULES=$(SCHEDULES) $(BIN)/python -m pytest -n $(JOBS) -k survives tests/test_recovery_simulator.py
	PYTHONPATH=. $(BIN)/python tests/faults/soak.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.has-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy dask_petuum algorithms

bench: $(VENV)/.has-bench
	$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick)

docs: $(VENV)/.has-docs
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build docs/generated demo-output .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# one stamp an extra: installed again when the packaging changes
$(VENV)/.has-demo: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.has-test: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[test,viz]'
	@touch $@

$(VENV)/.has-bench: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.has-docs: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[docs]'
	@touch $@
