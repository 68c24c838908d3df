# Everything installs into .venv; nothing outside the checkout is touched.
PYTHON ?= python3
VENV ?= .venv
# The default is a CPU build. For CUDA: make setup TORCH_SPEC='torch>=2.11' TORCH_INDEX=<index of your CUDA version>
TORCH_SPEC ?= torch==2.13.0
TORCH_INDEX ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VALIDATORS := $(if $(shell command -v npm),tests/deploy/node_modules)

.PHONY: setup demo test cases check format bench image-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH_SPEC)'
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[worker,dev]'
	touch $@

demo: setup
	$(BIN)/python -m launcher.demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup $(VALIDATORS)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not long"

# The tests that docs/reliability.md names beside each case of failure.
cases: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not long" tests/conformance \
	  $$(grep -oE '[a-z0-9_]+(/[a-z0-9_]+)*/test_[a-z0-9_]+\.py(::[A-Za-z0-9_]+)*' docs/reliability.md | sed -E 's|^(tests/)?|tests/|' | sort -u)

# Validators of the Kubernetes resources that the chart renders; without Node.js their tests are skipped, and say so.
tests/deploy/node_modules: tests/deploy/package-lock.json
	cd tests/deploy && npm ci --silent --no-audit --no-fund
	touch $@

# Mounts what the build needs inside a Debian root of its own: needs root, and debootstrap.
image-check: setup
	$(if $(filter 0,$(shell id -u)),,sudo )unshare --mount $(BIN)/python deploy/image_check.py gateway

bench: setup
	$(BIN)/python -m bench.engine --device cpu
	$(BIN)/python -m bench.live --sessions 6
	$(BIN)/python -m bench.quality --suite first-light --seed 1

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
