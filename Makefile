# Clarion: `make demo` shows it, `make test` proves it, `make bench` measures it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install dev demo test lint bench bench-check lock clean

help:
	@echo "make demo     install into $(VENV), then show events being pushed to a real MCP client"
	@echo "make install  install into $(VENV) only"
	@echo "make test     install what the tests need, then lint, type-check and run all of them"
	@echo "make bench    measure, beside other servers and the machine's own limits (about ten minutes)"
	@echo "make bench-check  measure again, shorter, and compare with the results that are committed"

$(VENV)/.installed: locks/runtime.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Clarion needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV), which takes about 20 seconds ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/runtime.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed locks/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.dev locks/bench.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/bench.txt
	@touch $@

install: $(VENV)/.installed

dev: $(VENV)/.dev

demo: install
	@$(BIN)/python -m clarion.demo

test: dev lint
	$(BIN)/python -m pytest

lint: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.bench
	@sh benchmarks/install_peers.sh
	$(BIN)/python -m benchmarks --save

# Reports, and judges nothing: it fails only if it could not measure.
bench-check: $(VENV)/.bench
	@sh benchmarks/install_peers.sh
	$(BIN)/python -m benchmarks --check

# Pins with hashes and without addresses, so that any index serves them.
lock: dev
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate pyproject.toml locks/build.in --output-file locks/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --group dev pyproject.toml locks/build.in --output-file locks/dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --constraints locks/dev.txt --group bench --output-file locks/bench.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
