# The commands of the README. Everything runs in .venv, made at the first use and brought up to date when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak bench docs clean

demo: .venv/installed
	$(BIN)/python scripts/demo.py

test: .venv/installed
	$(BIN)/ruff check vil_tracker scripts tests
	$(BIN)/ruff format --check vil_tracker scripts tests
	$(BIN)/mypy
	$(BIN)/pytest -m "not soak" -n 2

soak: .venv/installed
	$(BIN)/pip install --quiet -e ".[ray]"
	$(BIN)/pytest -m soak

bench: .venv/installed
	$(BIN)/vil-tracker benchmark --model tiny --weights tiny --peers $(if $(PEERS),--peers-dir $(PEERS)) \
		--dtype float32 bfloat16 --json docs/results/benchmark.json

docs: .venv/installed
	$(BIN)/pip install --quiet -e ".[docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist site demo_output

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@
