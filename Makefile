# The one vocabulary of the project. Every target sets up .venv first, from the locked and hashed versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Processes the tests are spread over; each has a network library of its own, about 2 GB.
WORKERS ?= 2
# A machine with an NVIDIA GPU gets TensorFlow with CUDA's libraries; GPU=0 or GPU=1 decides instead.
GPU ?= $(shell test "$$(uname -sm)" = "Linux x86_64" && nvidia-smi -L 2>/dev/null | grep -q GPU && echo 1 || echo 0)
LOCK := requirements$(if $(filter 1,$(GPU)),-gpu).lock
# What running takes; and what the tests and tools, or Keras on JAX, take beside it.
READY := $(VENV)/.ready-$(basename $(LOCK))
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
FAST_TESTS = $(PYTEST) -m "not slow and not integration and not champion"
READY_DEV := $(VENV)/.ready-requirements-dev
READY_RUN := $(if $(filter jax,$(KERAS_BACKEND)),$(READY_DEV),$(READY))
JAX_TESTS := $(addprefix tests/,test_backends.py flows/test_train.py networks/ promotion/test_registry.py tracking/test_provenance.py training/)
# Logs in to the services of make services, where the environment names no others.
AS_CLIENT = set -a; test -n "$$PREFECT_API_URL" || ! test -f $(CLIENT) || { . ./$(CLIENT); DAE_CLIENT=$(CLIENT); };
CLIENT := .services/client.env
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml
RUNNING := --extra build --extra onnx --extra services
# In requirements-dev.lock is only what requirements.lock has not.
BESIDE = --constraint requirements.lock $$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock)

.PHONY: help setup setup-dev train smoke test coverage test-slow test-jax test-champion integration packages lint bench ui runs services services-down deploy trigger lock reference wheel clean

help:            ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY)  ## the virtual environment with what running takes

setup-dev: $(READY_DEV) ## the same with all that tests, ruff, mypy and JAX take; make test and the like do this by themselves

# The environment's own Python if it works, else the given one; it says in a line what it lacks.
define SET_UP
@python=$(BIN)/python; $$python deploy/check_python.py $$python >/dev/null 2>&1 || python="$(PYTHON)"; \
  command -v $$python >/dev/null || { echo "error: $$python is not found; install Python 3.11 to 3.13, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
  $$python deploy/check_python.py $$python $(MAKECMDGOALS) && $$python deploy/make_venv.py $(VENV)
endef

$(READY): $(LOCK) pyproject.toml
	$(SET_UP) $(LOCK) --gb $(if $(filter 1,$(GPU)),9,3.6)

$(READY_DEV): $(READY) requirements-dev.lock
	$(SET_UP) $(LOCK) requirements-dev.lock --gb $(if $(filter 1,$(GPU)),10,4.5)

train: $(READY_RUN)  ## the main job: the whole flow on MNIST; ARGS="--set train.epochs=5" and the like are passed on
	@$(BIN)/dae train $(ARGS)

smoke: $(READY_RUN)  ## the whole flow on 2,000 images, in under a minute
	@$(BIN)/dae train --config configs/smoke.yaml $(ARGS)

test: $(READY_DEV)   ## every fast test and every example in the docstrings
	@$(FAST_TESTS) $(ARGS)

coverage: $(READY_DEV) ## the same, and which lines and branches they reach; fails below 90 %
	@$(FAST_TESTS) --cov --cov-report=term:skip-covered --no-cov-on-fail $(ARGS)

test-slow: $(READY_DEV) ## the tests that take long
	@$(PYTEST) -m slow $(ARGS)

test-champion: $(READY_DEV) ## what the champion that make train made does to image files
	@$(BIN)/python -m pytest -m champion tests/test_champion.py $(ARGS)

test-jax: $(READY_DEV) ## networks, training, scores and the flow on Keras's JAX backend, without TensorFlow
	@KERAS_BACKEND=jax $(FAST_TESTS) $(JAX_TESTS) $(ARGS)

integration: $(READY_DEV) ## the tests on real servers; make packages has what it needs
	@$(BIN)/python -m pytest -m integration tests/integration $(ARGS)

packages:        ## Debian's packages for make services and make integration, those that are missing; as root
	@for need in chromium:chromium initdb:postgresql; do \
	  command -v "$${need%%:*}" >/dev/null || ls /usr/lib/postgresql/*/bin/"$${need%%:*}" >/dev/null 2>&1 || \
	    { apt-get update -qq && apt-get install -qq --yes --no-install-recommends "$${need##*:}"; } || exit 1; \
	done

lint: $(READY_DEV)   ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)  ## side-by-side measurements, each as a ratio
	@$(BIN)/python -m benchmarks $(ARGS)

ui: $(READY)     ## MLflow's UI on the runs so far
	@$(BIN)/dae ui $(ARGS)

runs: $(READY)   ## the runs so far, as a table
	@$(BIN)/dae runs $(ARGS)

services: $(READY) ## PostgreSQL, MLflow, Prefect and a worker on this machine, for a team; needs Debian's package postgresql
	@$(BIN)/dae services up

services-down: $(READY) ## stop what make services started; what it keeps stays
	@$(BIN)/dae services down

deploy: $(READY) ## work pool, deployments, automations and limits, on the Prefect server
	@$(AS_CLIENT) $(BIN)/dae deploy $(ARGS)

trigger: $(READY) ## start a run of a deployment and follow it; ARGS="retrain --set train.epochs=5"
	@$(AS_CLIENT) $(BIN)/dae trigger $(ARGS)

lock:            ## compile requirements.lock, -gpu.lock and -dev.lock anew (needs uv)
	$(COMPILE) $(RUNNING) --output-file requirements.lock
	$(COMPILE) $(RUNNING) --extra gpu --no-emit-package tensorflow-cpu --output-file requirements-gpu.lock
	$(COMPILE) --extra dev $(BESIDE) --output-file requirements-dev.lock

reference: $(READY) ## configs/default.yaml and docs/configuration.md, from the schema
	@$(BIN)/python -m dae.config.reference

wheel: $(READY)  ## the built package, in dist/
	@$(BIN)/python -m hatchling build -t wheel

clean:           ## what can be made again: caches and stored image sets; runs, models and checkpoints stay
	rm -rf .dae/images .dae/noisy .dae/examples .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
