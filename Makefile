# Everything a newcomer or CI runs. Only make and Python >= 3.11 are needed; all else goes into .venv.

# the first Python that is new enough; if there is none, scripts/bootstrap.py says so
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
BIN := .venv/bin
# the hundreds of processes that tests start would each compile every module anew
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-postgres chaos fuzz coverage docs lint types format bench bench-peers lock clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 20

install:  ## Install everything into .venv, from the hashed lock
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "paymaster: Python 3.11 or newer is needed, and there is no python3; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) scripts/bootstrap.py

demo: install  ## Run a batch of jobs on simulated providers and check the bill
	@exec $(BIN)/paymaster demo

up: install  ## Run the embedded stack until Ctrl-C
	@exec $(BIN)/paymaster up

test: lint types  ## Lint, types and the whole test suite
	@$(BIN)/pytest -n 3 --dist loadgroup

test-postgres: install  ## The tests that need a database, all on PostgreSQL
	@$(BIN)/pytest -n 2 --dist loadgroup --database postgresql tests/db tests/budget tests/worker tests/watch tests/api tests/integration/test_postgres.py

chaos: install  ## Break things in full and count (JSON, hours; CHAOS="01 07", --short or --controls for less)
	@$(BIN)/python -m tests.chaos $(CHAOS)

fuzz: install  ## Made-up payloads and provider answers for ten minutes (FUZZ=60 for a minute); prints its seeds
	@$(BIN)/python -m tests.fuzz $(FUZZ)

# COVERED="tests/budget tests/selection" for a part. What Celery runs is seen in the three of tests/integration.
COVERED ?= tests/budget tests/selection tests/worker tests/tasks tests/watch tests/api \
	$(patsubst %,tests/integration/test_%.py,jobs shutdown deferred)
coverage: install  ## Branch coverage of budget/, selection/ and worker/, in all processes of the tests
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n 2 --dist loadgroup --database sqlite $(COVERED); tests=$$?; \
		$(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$tests

docs: install  ## Write docs/configuration.md from the settings classes
	@$(BIN)/python -m scripts.configuration

lint: install  ## Ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install  ## mypy, strict
	@$(BIN)/mypy

format: install  ## Let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install  ## Measure all, keep it and write docs/benchmarks.md (BENCH="overhead tiers" or "--short" for less; bench-NAME: one, to look at)
	@$(BIN)/python -m benchmarks $(BENCH)

bench-%: install
	@$(BIN)/python -m benchmarks.$* $(OPTIONS)

bench-peers:  ## Install what we are measured against into .venv-peers
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet --requirement benchmarks/peers/requirements.txt

lock:  ## Renew requirements.lock from pyproject.toml (needs uv)
	@uv lock && uv export --quiet --no-emit-project --no-header --no-annotate -o requirements.lock

clean:  ## Remove what was installed and made here
	@rm -rf .venv .venv-peers .paymaster .bootstrap.lock .pytest_cache .mypy_cache .ruff_cache .hypothesis
