# Two commands do everything on a fresh machine with Python 3.11 or later: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)
# Each file is held against the SHA-256 that is written down, but for torch, whose builds differ from index to index.
LOCKED := $(INSTALL) --no-deps --require-hashes --requirement

.PHONY: demo test test-all lint types docs bench audit lock dist faults fuzz load machines install clean

# What the developers need on top of what the command line runs with.
install: .venv/developed

.venv/installed: pyproject.toml constraints.txt locked/run.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(LOCKED) locked/run.txt
	$(INSTALL) --constraint constraints.txt torch
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

.venv/developed: .venv/installed locked/develop.txt
	$(LOCKED) locked/develop.txt
	touch $@

demo: .venv/installed
	$(BIN)/robustdeq demo

test: install
	$(PYTEST) -m "not slow"

# Everything once: quick tests of the core with the shapes and types of every call checked, all others as they are. What
# makes the core run as on another machine may stand in CORE_ENV.
test-all: install
	CHECK_SHAPES=1 $(CORE_ENV) $(PYTEST) -m checked
	$(PYTEST) -m "not checked"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/pyright

docs: install
	$(BIN)/mkdocs build --strict

bench: install
	$(BIN)/robustdeq bench

# Known vulnerabilities of the pinned versions. It asks PyPI, so that no other target runs it, and fails where PyPI is silent.
audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# The versions of constraints.txt with the SHA-256 of every file that PyPI has of them, for all that pyproject.toml asks for.
lock: .venv/installed
	$(INSTALL) --constraint constraints.txt --editable '.[all,dev,docs]'
	$(INSTALL) --constraint constraints.txt --no-deps torchattacks # and all others of the group `alone`
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet uv
	for part in run develop; do $(BIN)/python tests/requirements.py $$part | .venv/lock/bin/uv pip compile - \
		--constraint constraints.txt --no-deps --generate-hashes --no-annotate --no-header --quiet \
		--output-file locked/$$part.txt; done

# The source archive and the wheel made from it, checked, and tried in empty environments outside of this folder.
dist:
	$(PYTHON) -m venv .venv/dist
	.venv/dist/bin/python -m pip install --quiet build twine
	rm -rf dist
	.venv/dist/bin/python -m build
	.venv/dist/bin/twine check --strict dist/*
	.venv/dist/bin/python tests/release.py dist/*.whl

# The tests that compute, as other machines would run them; `.ci/run` is one of these, each day another.
machines: install
	$(BIN)/python tests/faults/machines.py --output results/reliability/machines.json

# Faults against training, evaluation and reproduction; where it may, it mounts a small disk to fill: `make faults N=100`.
faults: N ?= 1000
faults: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/harness.py -n $(N)

# Damaged and hostile files, so many for every reader: `make fuzz N=1000`.
fuzz: N ?= 10000
fuzz: install
	$(BIN)/python tests/faults/fuzz.py --inputs $(N) --output results/reliability/fuzz.json

load: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/load.py

clean:
	rm -rf .venv site dist .pytest_cache .ruff_cache .hypothesis
