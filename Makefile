# Every command of the project. Each makes its own virtual environment in the clone and installs there what it
# needs; the network is needed the first time only, and nothing outside the clone is changed.

UNAME := $(shell uname -s)
ifneq ($(UNAME),Linux)
$(error toilcache runs on Linux only, and this is $(UNAME))
endif

PYTHON ?=
ARGS ?=
CONTAINER ?=
IMAGE ?= python:3.12-slim
# More than two cores' worth: many tests wait for processes. ARGS=-n0 runs one test after the other, as --pdb needs.
WORKERS ?= 3
VENV := .venv$(if $(PYTHON),-$(patsubst python%,%,$(notdir $(PYTHON))))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir
unexport PYTHONPATH PYTHONHOME

# The mark of a finished installation holds the clone's path: where the clone was moved, or the Python below it was
# removed, the environment is made anew. pip and the editable install write absolute paths.
USABLE := $(shell test "$$(cat $(VENV)/.run 2>/dev/null)" = "$(CURDIR)" && $(BIN)/python -c 'print("yes")' 2>/dev/null)

# With a container engine: the one that is here, or on the test-bed one that is brought up with its image.
ifneq ($(CONTAINER),)
ifeq ($(TESTBED),1)
BROUGHT_UP := "$(CURDIR)/tests/testbed/engines.sh" with $(CONTAINER)
else
BOXED := --container "$(IMAGE)" --containerEngine "$(CONTAINER)"
endif
endif

.PHONY: help demo test test-other coverage lint bench soak clean $(if $(USABLE),,$(VENV)/.run)

help:  ## say what there is
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "  make demo CONTAINER=docker|apptainer runs the jobs in containers of IMAGE ($(IMAGE))"
	@echo "  ARGS='...' is passed on to pytest, the demo or the benchmark; PYTHON=python3.12 chooses the interpreter"

demo: $(VENV)/.run  ## map real sequencing reads through leader, job store and workers
	@here=$$(mktemp -d) && trap 'rm -rf "$$here"' EXIT && trap 'exit 130' INT TERM && cd "$$here" && \
	$(BROUGHT_UP) "$(CURDIR)/$(BIN)/python" "$(CURDIR)/examples/demo.py" $(BOXED) $(ARGS)

test: lint  ## lint, types and layers, then every test
	@$(BIN)/python -m pytest -W error -n $(WORKERS) --dist loadgroup $(COVERAGE) $(ARGS)

test-other:  ## the same in an environment of its own: make test-other PYTHON=python3.12
	@test -n "$(PYTHON)" || { echo "cannot choose an interpreter: say make test-other PYTHON=python3.12" >&2; exit 2; }
	@$(MAKE) --no-print-directory test

coverage:  ## the same with branch coverage of every process that tests start; takes twice as long
	@rm -f .cache/coverage .cache/coverage.*
	@$(MAKE) --no-print-directory test COVERAGE='--cov --cov-report=term'

lint: $(VENV)/.dev  ## ruff, mypy --strict and the layer contracts
	@$(BIN)/python -m ruff check --quiet --output-format concise .
	@$(BIN)/python -m ruff format --check --quiet .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --cache-dir .cache/import-linter --no-logo

bench: $(VENV)/.run  ## measure the budgets on this machine
	@$(BIN)/toilcache bench $(ARGS)

soak: $(VENV)/.dev  ## the tests that repeat for a long time
	@$(BIN)/python -m pytest -W error -m soak $(ARGS)

clean:  ## remove everything that these commands made
	rm -rf .venv .venv-* .cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): $(VENV)/.dev

# setuptools is installed first and used without build isolation, so that a later change of pyproject.toml that
# needs nothing new is taken in without the network.
$(VENV)/.run: pyproject.toml
	@test -n "$(USABLE)" || { python=$$(.ci/find-python $(PYTHON)) && echo "making $(VENV) with $$python" && \
	"$$python" -m venv --clear $(VENV); }
	@$(PIP) 'setuptools>=77'
	@$(PIP) --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@
