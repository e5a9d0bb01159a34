PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin
TORCH_TESTS := $(addprefix tests/test_, training.py methods.py modulation.py orthogonality.py layerwise.py norms.py \
	models.py every_row.py diagnostics.py augment.py data.py image_folder.py reproduce.py)

.PHONY: setup sweep test test-all test-oldest mutants lint clean

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

# All but what kills whole sweeps or needs Ray, a server, a browser or much time.
test: setup
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

# Small mistakes, each of which `make test` must notice.
mutants: setup
	$(BIN)/python tests/mutants.py

# Before a release: what trains, with the oldest torch that pyproject.toml allows.
test-oldest: .venv-oldest/installed
	$(OLDEST)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder $(TORCH_TESTS)

.venv-oldest/installed: requirements.lock constraints-oldest.txt pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	grep -Ev '^(torch|triton|nvidia-|cuda-)' requirements.lock > .venv-oldest/others.txt
	$(OLDEST)/pip install --quiet -r .venv-oldest/others.txt -r constraints-oldest.txt
	$(OLDEST)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-oldest build *.egg-info
