# The one vocabulary of the project. Every target sets up .venv first, from the locked and hashed versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# A machine with an NVIDIA GPU gets TensorFlow with CUDA's libraries; GPU=0 or GPU=1 decides instead.
GPU ?= $(shell test "$$(uname -sm)" = "Linux x86_64" && nvidia-smi -L 2>/dev/null | grep -q GPU && echo 1 || echo 0)
LOCK := requirements$(if $(filter 1,$(GPU)),-gpu).lock
READY := $(VENV)/.ready-$(basename $(LOCK))
JAX_TESTS := $(addprefix tests/test_,architectures.py backends.py flows.py inference.py precision.py provenance.py registry.py training.py)
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra dev pyproject.toml

.PHONY: help setup train smoke test test-slow test-jax lint bench ui runs lock wheel clean

help:            ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## the virtual environment, without doing anything in it

$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) from $(LOCK): about 200 packages, a few minutes the first time ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -e $@ || $(BIN)/python -m pip uninstall --quiet --quiet --yes tensorflow tensorflow-cpu
	@rm -f $(VENV)/.ready*
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

train: $(READY)  ## the main job: the whole flow on MNIST; ARGS="--set train.epochs=5" and the like are passed on
	@$(BIN)/dae train $(ARGS)

smoke: $(READY)  ## the whole flow on 2,000 images, in under a minute
	@$(BIN)/dae train --config configs/smoke.yaml $(ARGS)

test: $(READY)   ## every test and every example in the docstrings, with branch coverage
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(READY) ## the tests that take long
	@$(BIN)/python -m pytest -m slow --no-cov $(ARGS)

test-jax: $(READY) ## networks, training, scores and the flow on Keras's JAX backend, without TensorFlow
	@KERAS_BACKEND=jax $(BIN)/python -m pytest -m "not slow" --no-cov $(JAX_TESTS) $(ARGS)

lint: $(READY)   ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)  ## side-by-side measurements, each as a ratio
	@$(BIN)/python -m benchmarks $(ARGS)

ui: $(READY)     ## MLflow's UI on the runs so far
	@$(BIN)/dae ui $(ARGS)

runs: $(READY)   ## the runs so far, as a table
	@$(BIN)/dae runs $(ARGS)

lock:            ## compile requirements.lock and requirements-gpu.lock anew (needs uv)
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra gpu --no-emit-package tensorflow-cpu --output-file requirements-gpu.lock

wheel: $(READY)  ## the built package, in dist/
	@$(BIN)/python -m hatchling build -t wheel

clean:           ## what can be made again: caches and stored image sets; runs, models and checkpoints stay
	rm -rf .dae/images .dae/noisy .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
