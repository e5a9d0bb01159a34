PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup sweep test lint clean

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Ablate needs Python 3.11, 3.12 or 3.13; found " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

sweep: setup
	$(BIN)/python cli.py sweep search_spaces/depth_ablation.yaml
	$(BIN)/python cli.py report

test: setup
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info
