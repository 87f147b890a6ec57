# One command for each thing a person does. The first one that needs the environment makes it.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= mlp
ARGS ?=

RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# pip reads the constraints from here for what it builds in isolation too (under both names: the
# second is that of pip 25.3 and later). A relative path, because pip splits these at spaces.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(RUN) -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup train test verify support accuracy mutants false-alarms benchmark tune lint wheel-check clean distclean

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done
	@echo 'ARGS="..." is passed on. PYTHON=... chooses the interpreter of a new environment.'

setup: $(STAMP)  ## make the environment and install the pinned dependencies (the others do it too)

train: $(STAMP)  ## train on handwritten digits (CONFIG=mlp or conv)
	@$(RUN) scripts/train.py fit --config $(CONFIG) $(ARGS)

test: $(STAMP)  ## run the whole test suite
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -rs -n auto --maxprocesses 4 $(ARGS)

verify: $(STAMP)  ## compare every op, optimizer and training run with torch's
	@$(RUN) -m verification $(ARGS)

support: $(STAMP)  ## write docs/support.md: every op under every transform, options, memory
	@$(RUN) -m verification --markdown docs/support.md $(ARGS)

accuracy: $(STAMP)  ## train the shipped configurations on five seeds, print the accuracies
	@$(RUN) -m lightning_modules.accuracy $(ARGS)

mutants: $(STAMP)  ## plant bugs, show which check catches each
	@$(RUN) -m verification mutants $(ARGS)

false-alarms: $(STAMP)  ## run the checks on what is right, 200 random cases each
	@$(RUN) -m verification false-alarms $(ARGS)

benchmark: $(STAMP)  ## time every op and optimizer against torch's, in one run
	@$(RUN) scripts/benchmark.py $(ARGS)

tune: $(STAMP)  ## search hyperparameters with two workers (CONFIG=mlp or conv)
	@$(RUN) scripts/tune.py --config $(CONFIG) --workers 2 $(ARGS)

lint: $(STAMP)  ## ruff, mypy, import-linter
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports --no-logo

wheel-check: $(STAMP)  ## build the wheel, install it elsewhere, train and verify with it
	@.ci/wheel-check $(RUN)

clean:  ## remove caches and builds
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find refnet verification lightning_modules scripts tests -name __pycache__ -type d -prune \
		-exec rm -rf {} +

distclean: clean  ## remove the environment as well
	@rm -rf $(VENV)

# Asked only when the environment has to be made, and before anything is written.
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
IS_NEW = $(shell $(PYTHON) -c 'import sys; print("yes" * (sys.version_info >= (3, 11)))' 2>/dev/null)
HAS_VENV = $(shell $(PYTHON) -c 'import venv, ensurepip as e; print(e.version())' 2>/dev/null)
HAS_PIP = $(shell $(RUN) -m pip --version 2>/dev/null)
define CHECK_PYTHON
$(if $(IS_NEW),,$(error Python 3.11 or later is needed, and '$(PYTHON)' $(if $(VERSION),is \
Python $(VERSION),does not run): name another one with PYTHON=...))
$(if $(HAS_VENV),,$(error '$(PYTHON)' lacks ensurepip, which makes virtual environments: on Debian \
or Ubuntu, `apt install python$(VERSION)-venv`))
endef

# The stamp is touched only after pip has succeeded, so an interrupted set-up starts again.
$(STAMP): pyproject.toml constraints.txt
	$(if $(HAS_PIP),,$(CHECK_PYTHON))
	@rm -f $@
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV): two to four minutes, and a download."
	@{ $(PIP) install -e '.[dev]' && touch $@; } 2>&1 | tee $(VENV)/install.log | \
		while read -r _; do printf .; done; echo; \
		test -e $@ || { tail -n 15 $(VENV)/install.log >&2; exit 1; }
