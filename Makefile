# make run trains the main job, on synthetic data. make test checks everything. make test-all adds the tests that repeat
# what others meet, in other combinations (the marker "thorough"). make check checks style and types and runs the quick
# tests. make docs builds the documentation site. All need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-all check lint docs lock clean

run: .venv/ready
	$(BIN)/fedjax-mri train configs/quickstart.py --out runs/quickstart

test: .venv/ready lint
	$(BIN)/python -m pytest -q

test-all: .venv/ready lint
	$(BIN)/python -m pytest -q -m ""

check: .venv/ready lint
	$(BIN)/python -m pytest -q -m quick

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedjax_mri needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps -e .
	touch $@

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock:
	uv pip compile pyproject.toml --extra dev --universal --fork-strategy fewest --python-version 3.11 \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf .venv .jax_cache runs site
