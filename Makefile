PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test test-all lint bench

quickstart: .venv/installed
	$(BIN)/continual run quickstart

# Style first, then the tests. One thread each: two workers share two cores, and results do not depend on the machine.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-all: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

# Speed against peers and limits, an hour or more; other models and rows: python -m benchmarks.decode --help.
bench: .venv/installed
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0 -e '.[bench]'
	for name in startup decode train scale merge; do \
		$(BIN)/python -m benchmarks.$$name --output runs/bench/$$name.json || exit 1; \
	done

# One pip command, so that nothing later moves torch away from the pinned version.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt torch==2.13.0 -e '.[test]'
	touch $@
