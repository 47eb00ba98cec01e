# Everything a contributor needs; `make help` lists it.

VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# Also for the build tools that pip fetches by itself.
export PIP_CONSTRAINT := $(CURDIR)/.ci/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := lmkd proto clients/python examples tests
DISTRIBUTIONS := -e ./proto -e ./clients/python

.PHONY: help demo test lint types check-tests bench fuzz arena arena-report install clean

help:
	@echo "make demo    the main job, in half a minute"
	@echo "make test    style, types and all tests that this machine can run"
	@echo "make bench   speed and memory, as ratios"
	@echo "make fuzz    a million inputs for whatever takes bytes from outside, in some minutes"
	@echo "make arena   every guard under every workload, in a machine of its own: hours; GUARDS=\"none lmkd\" WORKLOADS=baseline"
	@echo "             RUNS=1 cut it. It goes on where it stopped; remove docs/arena/runs.jsonl to begin anew"
	@echo "make arena-report   docs/arena.md and its plots, from the raw numbers"
	@echo "make install the commands lmkd and lmkctl, in $(VENV)/bin"
	@echo "make clean   remove what make made"

install: $(VENV)/installed

demo: $(VENV)/installed
	@$(BIN)/python examples/demo.py

test: lint types check-tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/installed-dev
	$(BIN)/mypy

# The pure parts are held to 100% branch coverage; the machines of tests/vm and the daemons that tests start
# are other processes, and are not measured.
check-tests: $(VENV)/installed-dev
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage report

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.bench $(BENCH)

fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# GUARDS, WORKLOADS, RUNS and SEED are for it; ARENA_RAW is another file for the raw numbers.
export GUARDS WORKLOADS RUNS SEED ARENA_RAW
arena: $(VENV)/installed
	@$(BIN)/python -m tests.arena

arena-report: $(VENV)/installed-arena
	@$(BIN)/python -m tests.arena.report

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml proto/pyproject.toml clients/python/pyproject.toml .ci/constraints.txt
	$(BIN)/pip install --quiet $(DISTRIBUTIONS) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet $(DISTRIBUTIONS) -e ".[dev]"
	@touch $@

$(VENV)/installed-arena: $(VENV)/installed
	$(BIN)/pip install --quiet $(DISTRIBUTIONS) -e ".[arena]"
	@touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
