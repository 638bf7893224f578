# Every target builds what it needs in .venv; nothing else has to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo serve test test-slow check bench clean

demo: .venv/.server  ## the main job, end to end, on the embedded service
	$(BIN)/python examples/demo.py

serve: .venv/.server  ## the service on http://127.0.0.1:8000
	$(BIN)/secateur serve

test: .venv/.test  ## the suite, without what is marked slow
	$(PYTEST) -n 2 --dist loadgroup -m "not slow"

test-slow: .venv/.test  ## what is marked slow
	$(PYTEST) -n 2 --dist loadgroup -m slow

check: .venv/.dev  ## style, types, import rules, committed documents
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m api.openapi --check

bench: .venv/.server  ## the measured claims, all of them; fails where one does not hold
	failed=0; for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || failed=1; done; exit $$failed

clean:
	rm -rf .venv secateur-data demo-output

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Secateur needs Python 3.11 to 3.13, found " + sys.version.split()[0] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv

.venv/.server .venv/.test .venv/.dev: .venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@
