# Two commands are enough: `make run` and `make test`. `make help` lists the others.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# How many test processes; two suit two cores.
WORKERS ?= 2
export PYTHON VENV
export PATH := $(abspath $(BIN)):$(PATH)
export NODE_PATH := $(abspath tests/node/node_modules)
# By the environment, so that no quote or dollar sign in a prompt is ever read by a shell.
export DEMO_REPO := $(value REPO)
export DEMO_PROMPT := $(value PROMPT)

SOURCES := src tests examples benchmarks scripts
LOCK := --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make lock'
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run test quick check format bench soak lock docs clean setup setup-dev

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/' | column -t -s '|'

run: setup ## a prompt to a pull request on a real repository: make run [REPO=path-or-url] [PROMPT='...']
	@$(BIN)/corral demo $${DEMO_REPO:+--repo "$$DEMO_REPO"} $${DEMO_PROMPT:+--prompt "$$DEMO_PROMPT"} $(ARGS)

test: setup-dev check ## everything that CI checks: `check`, then all tests with their coverage
	$(PYTEST) -n $(WORKERS) --dist loadscope -m "not soak" --cov --cov-report=term $(ARGS)

quick: setup-dev ## the tests that need no more than a minute in all
	$(PYTEST) -q -n $(WORKERS) --dist loadscope -m "not slow and not model and not soak" $(wildcard tests/unit tests/property tests/contract) $(ARGS)

check: setup-dev ## lint, format, types, layers, duplicates, the lock
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pylint --disable=all --enable=duplicate-code src
	$(BIN)/python scripts/check_lock.py

format: setup-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

bench: setup-dev ## the speed of the queue beside other job queues, as a table
	$(BIN)/python -m benchmarks.queue $(ARGS)

soak: setup-dev ## long runs that look for leaks and lost jobs
	$(PYTEST) -m soak --timeout=0 -s $(ARGS)

lock: setup-dev ## pin the newest fitting releases again, by hash and without addresses
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --group dev --upgrade --output-file requirements/dev.txt
	$(BIN)/uv pip compile pyproject.toml $(LOCK) --group build --constraint requirements/dev.txt --output-file requirements/run.txt
	for folder in tests/node tests/runners; do (cd $$folder && npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund) || exit 1; done

docs: setup-dev ## write the settings table and the command reference anew
	$(BIN)/python scripts/write_reference.py

clean: ## remove what `make` made (the data folder with its jobs and models stays)
	rm -rf $(VENV) $(VENV).lock tests/node/node_modules tests/runners/node_modules dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

setup:
	@scripts/setup.sh run

setup-dev:
	@scripts/setup.sh dev
