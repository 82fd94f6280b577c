# Every target sets up what it needs: a virtual environment in .venv and the install, skipped when up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint types check lock lock-check audit wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv with the package and its development tools

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: $$($(PYTHON) --version) found, Python 3.11 to 3.13 needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'mmagic==1.2.0' # for NIQE's model alone: nothing of it is imported
	@touch $@

demo: $(STAMP) ## train a small SRGAN on embedded photographs in minutes: a picture and a table
	$(BIN)/python -m srgan.train experiment=demo

test: $(STAMP) ## run the tests but for the slow ones, in minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(STAMP) ## run the slow tests: whole trainings, kills, several processes, the measurements
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(STAMP) ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	$(BIN)/pyright

check: lint types test test-slow ## what CI runs

lock: $(STAMP) ## pin the newest versions and their hashes in requirements.lock
	$(BIN)/python -m pip install --quiet 'pip-tools>=7.4'
	$(BIN)/pip-compile --quiet --upgrade --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --strip-extras --allow-unsafe --extra dev \
		--output-file - pyproject.toml > requirements.lock.pins
	(sed -n '/^[^#]/q;p' requirements.lock; sed '/^# WARNING/,/^srgan @/d' requirements.lock.pins) > requirements.lock.new
	rm requirements.lock.pins
	mv requirements.lock.new requirements.lock

lock-check: ## install requirements.lock into an empty environment, which shows that all of it can still be had
	$(PYTHON) -m venv --clear dist/lock-check
	dist/lock-check/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	dist/lock-check/bin/python -m pip check

audit: $(STAMP) ## look up requirements.lock among the known vulnerabilities (needs the internet)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --disable-pip --requirement requirements.lock

wheel: $(STAMP) ## build dist/*.whl
	$(BIN)/python -m build --wheel

clean: ## remove the virtual environment and build products, not outputs/
	rm -rf $(VENV) dist .pytest_cache .ruff_cache
