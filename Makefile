# make setup | check | test | conformance | bench | gpu-site | gpu-check | demo | clean
#
# Everything lives in .venv, from PyPI; a stamp in it says what is installed, so that a second run costs nothing.
# Another Python: make PYTHON=python3.12 setup. Another compiler: make CXX=g++-13 demo.

PYTHON ?= python3
CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))
export CXX
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
# Without a GPU, this torch: the newest one may bring gigabytes of CUDA libraries.
TORCH := $(if $(shell command -v nvidia-smi 2>/dev/null),,torch==2.13.0)

.PHONY: setup check test conformance bench gpu-check gpu-site demo clean
.DELETE_ON_ERROR:

setup: $(VENV)/stamp-dev

check: $(VENV)/stamp-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n 2

# Every model type of transformers against its own module: docs/conformance.md. It goes on where it was stopped.
conformance: $(VENV)/stamp-dev
	PYTHONPATH=. $(BIN)/python -m tests.conformance

# Figures belong to a machine: benchmarks/results/ says which beside each of them.
bench: $(VENV)/stamp-compiler
	$(BIN)/pagedc compile smollm2-135m -o build/smollm2-135m.pagedc
	$(BIN)/pagedc compile smollm2-135m -o build/smollm2-135m-bf16.pagedc --quantize none --dtype bfloat16
	$(BIN)/python -m benchmarks.bandwidth
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.boot
	$(BIN)/python -m benchmarks.agreement

# On a machine with a GPU, unattended, within nine minutes: no installation, and results under $OUT where that is set.
# What that machine's Python lacks lies in build/gpu-site, made by `make gpu-site` where there is a network (15 MiB).
gpu-check:
	PYTHONPATH="src:build/gpu-site:$$PYTHONPATH" $(PYTHON) -m benchmarks.gpu --tests --budget 520

GPU_PYTHON ?= 3.12
gpu-site:
	$(PYTHON) -m pip install --quiet --only-binary=:all: --python-version $(GPU_PYTHON) --no-deps --upgrade \
		--target build/gpu-site gguf llguidance msgspec tornado

demo: $(VENV)/stamp-compiler
	@$(BIN)/python -m examples.demo

clean:
	rm -rf build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/stamp-venv:
	@command -v $(firstword $(CXX)) >/dev/null || { echo "pagedc needs a C++ compiler: apt install g++ (or make CXX=…)" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON): install Python 3.11 or later (or make PYTHON=…)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "pagedc needs Python 3.11 or later; $(PYTHON) is %d.%d (or make PYTHON=…)" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip  # --group is of pip 25.1
	@touch $@

$(VENV)/stamp-compiler: $(VENV)/stamp-venv pyproject.toml
	@echo "installing pagedc and its compiler into $(VENV) (a minute or two)"
	@$(if $(TORCH),$(PIP) install $(TORCH))
	@$(PIP) install --editable '.[compiler]'
	@touch $@

$(VENV)/stamp-dev: $(VENV)/stamp-compiler
	@echo "installing the tools of development"
	@$(PIP) install --group dev
	@touch $@
