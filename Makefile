# Every target makes the virtual environment itself; `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export DO_NOT_TRACK := true
export GX_ANALYTICS_ENABLED := false
export KEDRO_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo ablate experiments test check types first rest docs outgrow bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# torch first, so that nothing else pulls another one
$(STAMP): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Found no $(PYTHON). Expected Python 3.11. To fix it: install it, or run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,web,docs]'
	@touch $@

install: $(STAMP) ## make .venv with everything pinned in constraints.txt

demo: $(STAMP) ## run the whole chain on the embedded world, animate a portrait, print times and metrics
	@$(BIN)/python benchmarks/demo.py

ablate: $(STAMP) ## train and score the ablations on the mini world (about an hour and a half), write docs/results
	$(BIN)/dvc repro docs/results/dvc.yaml

experiments: $(STAMP) ## DVC's table of experiments, in 120 columns
	@$(BIN)/dvc exp show --only-changed --drop 'Created|src|pipelines|data'

# Two halves of the tests; the second is all but the first. `make --jobs=2 test` runs them side by side, on a machine with cores to spare.
FIRST := tests/platform tests/training tests/web
test: check types first rest ## ruff, mypy and pytest

check: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

first: $(STAMP)
	$(BIN)/python -m pytest $(FIRST)

rest: $(STAMP)
	$(BIN)/python -m pytest tests $(FIRST:%=--ignore=%)

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP) ## build the documentation site in build/docs; stops at a broken link
	$(BIN)/mkdocs build --strict --quiet

outgrow: export FPORTRAIT_OUTGROW := 1
outgrow: $(STAMP) ## check conf/outgrow against real servers on this machine (S3, PostgreSQL, MLflow, Ray, torchrun)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,web,docs,outgrow,ray]'
	$(BIN)/python benchmarks/outgrow.py

bench: export BENCH := 1
bench: $(STAMP) ## run every script in benchmarks/; figures go to benchmarks/results/
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean: ## remove everything that is made: data, runs, caches (captures that you put under data/01_raw stay), the environment
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .dvc/cache .dvc/tmp build src/*.egg-info
	find data mlruns -mindepth 1 -maxdepth 1 ! -name .gitkeep ! -name 01_raw -exec rm -rf {} +
	find . -name __pycache__ -prune -exec rm -rf {} +
