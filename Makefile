# Every target builds what it needs in .venv; nothing else has to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
# Some slow tests take minutes, and some wait for a service: a third worker uses what they leave, and
# a worker that is done takes over what waits for another.
PARALLEL_SLOW := -n 3 --dist worksteal

.PHONY: help demo serve test test-one test-slow check format types coverage map lock bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.server  ## run the main job end to end on the embedded service
	$(BIN)/python examples/demo.py

serve: .venv/.server  ## start the service on http://127.0.0.1:8000
	$(BIN)/secateur serve

# pytest keeps the tests that it rewrote, and collects them in half the time when it runs again
test test-slow test-one coverage: export PYTHONDONTWRITEBYTECODE :=

test: .venv/.test  ## run the suite, without what is marked slow
	$(PYTEST) $(PARALLEL) -m "not slow"

test-slow: .venv/.test  ## run what is marked slow
	$(PYTEST) $(PARALLEL_SLOW) -m slow

test-one: .venv/.test  ## run some tests in one process: make test-one T=tests/pruning/test_masks.py
	$(PYTEST) $(T)

check: .venv/.dev  ## check format, style, types, import rules and committed documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m api.openapi --check

format: .venv/.dev  ## format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: .venv/.dev  ## check the types alone
	$(BIN)/mypy

coverage: .venv/.test  ## run the suite with the coverage of every package, by test: coverage report, coverage html
	$(PYTEST) $(PARALLEL) -m "not slow" --cov --cov-context=test --cov-report=term:skip-covered

map: .venv/.dev  ## write the table of rooms in docs/architecture.md from the docstrings
	$(BIN)/python -m tests.support.room_map

lock: .venv/.dev  ## renew requirements.lock: the releases that the newest image was built with
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	    --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

bench: .venv/.server  ## run the measured claims, all of them; fails where one does not hold
	failed=0; for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || failed=1; done; exit $$failed

clean:  ## remove what the other targets made
	rm -rf .venv secateur-data demo-output .coverage .coverage.* htmlcov

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Secateur needs Python 3.11 to 3.13, found " + sys.version.split()[0] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv

.venv/.server .venv/.test .venv/.dev: .venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@
