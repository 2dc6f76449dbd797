# The commands of this repository. Each makes a virtual environment first if there is none.
#
#   make demo     install, run a small but real benchmark, print its table, write plots and an HTML page
#   make test     all tests
#   make lint     ruff and mypy
#   make bench    training speed of every algorithm (BENCH_ARGS="--corl DIR" to compare with a CORL checkout)
#   make clean    remove what these commands wrote (not the dataset cache)
#
# PYTHON chooses the interpreter that makes the environment, PIP_ARGS is passed to pip. On Linux without an NVIDIA GPU
#   make demo PIP_ARGS="--extra-index-url URL"
# with the URL of PyTorch's CPU builds (pytorch.org, Get Started) saves gigabytes of CUDA libraries.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
SPEC = pyproject.toml constraints.txt

.PHONY: help demo install test lint bench clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   make/make/p' Makefile

$(BIN)/python:
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# The stamps say which set of packages the environment holds.
$(VENV)/.installed: $(SPEC) | $(BIN)/python
	@echo "installing offbench and its dependencies (a minute or two the first time)"
	@$(PIP) -e '.[mujoco]'
	@touch $@

$(VENV)/.installed-dev: $(SPEC) | $(BIN)/python
	@echo "installing offbench with its development tools (a minute or two the first time)"
	@$(PIP) -e '.[mujoco,minigrid,minatar,robotics,dev]'
	@touch $(VENV)/.installed $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/offbench demo $(DEMO_ARGS)

test: $(VENV)/.installed-dev
	@echo "running the tests"
	@$(BIN)/python -m pytest $(TEST_ARGS)

# A type checker cannot see that datasets/ is installed as offbench.datasets, so it checks the built wheel.
lint: $(VENV)/.installed-dev
	@echo "ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "ruff format"
	@$(BIN)/ruff format --quiet --check .
	@echo "mypy on the built wheel"
	@rm -rf build
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel .
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types build/wheel/*.whl
	@cd build/types && "$(abspath $(BIN))/mypy" --config-file "$(CURDIR)/pyproject.toml" --cache-dir "$(CURDIR)/.mypy_cache" -p offbench

bench: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/training_speed.py $(BENCH_ARGS)

clean:
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
