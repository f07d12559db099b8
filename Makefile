# Two commands: `make quickstart` and `make test`. Each sets up .venv first when that is missing or stale.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: quickstart test check setup clean

quickstart: $(STAMP)
	@$(BIN)/chemscale quickstart

test: $(STAMP)
	@scripts/check
	@$(BIN)/python -m pytest -n 2 -m slow

check: $(STAMP)
	@scripts/check

setup: $(STAMP)

# The CPU build of torch goes first: a bare requirement would bring gigabytes of CUDA.
$(STAMP): pyproject.toml
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) docs/_build
