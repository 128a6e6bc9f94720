PYTHON ?= python3
BIN := .venv/bin
# One pip command, so that nothing later moves torch away from the pinned version.
PIP := $(BIN)/pip install -c constraints.txt torch==2.13.0

.PHONY: quickstart test test-all lint bench

quickstart: .venv/installed
	$(BIN)/continual run quickstart

# Style first, then the tests. One thread each: two workers share two cores, and results do not depend on the machine.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

# Speed against peers and limits, an hour or more; other models and rows: python -m benchmarks.decode --help.
bench: .venv/installed
	$(PIP) -q -e '.[bench]'
	for name in startup decode train scale merge adapters; do \
		$(BIN)/python -m benchmarks.$$name --output runs/bench/$$name.json || exit 1; \
	done

# What running needs.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

# What testing needs, and with it what running needs.
.venv/installed-test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e '.[test]'
	touch .venv/installed $@
