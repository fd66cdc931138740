# `make run` and `make test` are all there is to set up: each makes the virtual environment it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests start thousands of processes: each would compile every module anew where this is set, as it is in many images.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-long check format bench docs clean

## The example shop behind Headway, on http://127.0.0.1:8000. Ctrl-C stops everything.
run: $(STAMP)
	cd examples/shop && ../../$(BIN)/headway up

## Everything that CI runs: style, types, layers, docs, and all tests with the real engines.
## What measures times or loads has the machine to itself, after all else, which runs side by side; whatever fails there,
## it is run too.
test: check
	@status=0; \
	$(BIN)/pytest -m "not long and not alone" -n 4 --dist loadfile tests || status=$$?; \
	$(BIN)/pytest -m "alone and not long" tests/real || status=$$?; \
	exit $$status

## Many seeds and long faults; writes the table in docs/reliability.md.
test-long: $(STAMP)
	$(BIN)/pytest -m "long and not alone" -n 2 --timeout 1800 --reliability=docs/reliability.md tests
	$(BIN)/pytest -m "long and alone" --timeout 1800 --reliability=docs/reliability.md --go-on tests/real

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m headway.declaration.reference --check
	$(BIN)/python -m headway.cli.reference --check

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

## Side by side with the peers, in one run; writes docs/benchmarks.md.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m bench

## Writes the generated reference.
docs: $(STAMP)
	$(BIN)/python -m headway.declaration.reference
	$(BIN)/python -m headway.cli.reference
	$(BIN)/python tests/simulation/overload_pictures.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "\nhint: make run PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)
