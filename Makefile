# `make` lists the targets. Each makes the environment it needs, in .venv, with the versions of
# constraints.txt, and again when they or the C++ sources change.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_OPTIONS ?=
# Where the targets of a GPU find torch and this package without a .venv, and so without a network (CONTRIBUTING.md).
GPU_PYTHON ?=
ON_GPU := $(or $(GPU_PYTHON),$(BIN)/python)
GPU_INSTALLED := $(if $(GPU_PYTHON),,.venv/installed)
# Without a GPU the CUDA kernels are compiled for the host, so that tests run them.
SPEX_CUDA ?= $(if $(wildcard /dev/nvidia0),AUTO,EMULATED)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-gpu coverage docs bench bench-gpu lint format sanitize sanitize-gpu clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1:\2/p' Makefile | awk -F: '{ printf "%-12s %s\n", $$1, $$2 }'

demo: .venv/installed ## explain words of a passage, attention heads and training rows; write demo.md
	HF_HUB_OFFLINE=1 $(BIN)/spex demo --out demo.md $(DEMO_OPTIONS)

# Some files at once, each in one process, for what its tests have in common. One GPU is not shared: tests fill it.
SIDE_BY_SIDE := $(if $(wildcard /dev/nvidia0),,\
  --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --benchmark-disable)

test: .venv/installed build/browser/tried ## run the tests, report the branch coverage of spex_core
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered

test-gpu: $(GPU_INSTALLED) ## run the tests that need a CUDA device, if there is one
	$(ON_GPU) -m pytest -m gpu

coverage: test ## the same, and the report line by line in htmlcov/
	$(BIN)/python -m coverage html --quiet

docs: .venv/installed .venv/docs ## build the site of the documentation, into build/site
	$(BIN)/sphinx-build -W --keep-going --quiet docs build/site

bench: .venv/installed .venv-peers/installed build/bench/parity_block build/browser/tried ## measure against the public packages, into bench/results/
	build/bench/parity_block > bench/results/parity_block.json
	for script in bench/bench_*.py; do \
	  SPEX_PEERS_PYTHON=$(CURDIR)/.venv-peers/bin/python $(BIN)/python $$script || exit 1; \
	done

bench-gpu: $(GPU_INSTALLED) ## measure the kernels on a CUDA device, if there is one, into bench/results/gpu.json
	$(ON_GPU) bench/bench_gpu.py

lint: .venv/lint ## check style, types, formatting and spelling
	git ls-files --cached --others --exclude-standard -z | xargs -0 $(BIN)/pre-commit run --files

format: .venv/lint ## repair formatting and what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*.h csrc/*.inc csrc/*.cpp csrc/*.cu csrc/*.cuh tests/cpp/*.h tests/cpp/*.cpp)

sanitize: build/address/spex_cpp_tests build/thread/spex_cpp_tests ## run the C++ tests under the address, undefined-behaviour and thread sanitizers
	build/address/spex_cpp_tests
	$(FIXED_ADDRESSES) build/thread/spex_cpp_tests

# Each tensor in memory of its own, so that a kernel is seen to leave it. The sanitizer looks at the kernels alone:
# errors of CUDA calls are exceptions of torch, and some, of questions that it asks a driver, are none.
sanitize-gpu: $(GPU_INSTALLED) ## run the tests that need a CUDA device under compute-sanitizer
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --report-api-errors no --error-exitcode 1 \
	  $(ON_GPU) -m pytest -m gpu

# Where the kernel scatters addresses widely, the thread sanitizer of older compilers refuses to start.
FIXED_ADDRESSES := $(shell setarch -R true 2>/dev/null && echo setarch -R)

clean: ## remove the environments and everything built
	rm -rf .venv .venv-peers build dist htmlcov .coverage .benchmarks .hypothesis .pytest_cache .mypy_cache .ruff_cache

# A browser for the tests of the HTML page; without npm or a network they skip.
build/browser/tried: tests/browser.py
	$(PYTHON) tests/browser.py
	@touch $@

build/bench/parity_block: .venv/compile bench/parity_block.cpp $(wildcard csrc/*)
	PATH=$(CURDIR)/$(BIN):$$PATH; \
	cmake -S csrc -B build/bench -G Ninja -DSPEX_CPP_TESTS=ON && cmake --build build/bench --target spex_cpu
	$(CXX) -std=c++17 -O2 -Icsrc bench/parity_block.cpp build/bench/libspex_cpu.a -pthread -o $@

# A C++ test program under one sanitizer; bounds and lifetimes go with undefined behaviour.
build/%/spex_cpp_tests: .venv/compile $(wildcard csrc/* tests/cpp/*)
	PATH=$(CURDIR)/$(BIN):$$PATH; \
	cmake -S csrc -B build/$* -G Ninja -DSPEX_CPP_TESTS=ON -DCMAKE_BUILD_TYPE=Debug \
	  -DCMAKE_CXX_FLAGS="-O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize=$(SANITIZERS_$*)" \
	  && cmake --build build/$*
SANITIZERS_address := address,undefined
SANITIZERS_thread := thread

.venv/bin/pip: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) pip
	@touch $@

.venv/compile .venv/test .venv/docs .venv/lint: .venv/%: .venv/bin/pip pyproject.toml
	$(PIP) --group $*
	@touch $@

.venv/installed: .venv/compile .venv/test $(wildcard csrc/*)
	$(PIP) --no-build-isolation --config-settings=cmake.define.SPEX_CUDA=$(SPEX_CUDA) --editable '.[text,remote,ray]'
	@touch $@

.venv-peers/installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --constraint constraints.txt pip
	.venv-peers/bin/pip install --quiet --constraint constraints.txt --group peers
	@touch $@
