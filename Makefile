# Two commands: `make demo` and `make test`. Both set up what they need in .venv, pinned.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow check benchmarks clean

demo: .venv/ready
	$(BIN)/labelsieve demo --out demo-run --overwrite

test: .venv/ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmarks: .venv/ready
	$(BIN)/pip install --quiet -r requirements/benchmarks.txt

clean:
	rm -rf .venv demo-run

# torch comes first and stays pinned: a range would let pip fetch another build of several gigabytes.
.venv/ready: Makefile pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "labelsieve needs Python 3.11 or later; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
