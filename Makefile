# make demo      set up .venv, build, export the demo model, decode with it
# make test      the same set-up, then every test
#
# make gpu-test  on a machine with a GPU and PyTorch: build the CUDA kernels, test them
# make gpu-bench the same build, then measure them and their peers
#
# Variables: PYTHON       the interpreter that .venv is made from (3.11 or later)
#            TORCH_INDEX  pip index for torch alone; see README.md for PyTorch's index of CPU builds
#            TEST_JOBS    test files that run at once; each takes about 3 GB of memory
#            PYTEST_ARGS  more arguments for pytest
#            GPU_PYTHON   the interpreter that has PyTorch, for gpu-test and gpu-bench
#            GPU_BENCH_ARGS  e.g. "--only '8 tokens' --stages ours": docs/performance.md
PYTHON ?= python3
TORCH_INDEX ?=
TEST_JOBS ?= 2
PYTEST_ARGS ?=
GPU_PYTHON ?= python3
GPU_BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
TREE := build/native
DEMO := build/demo/switch-tiny-onnx
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A step that failed says what it was and what to do about it.
explain = || { printf '\n*** %s\n' $(1) >&2; exit 1; }
PIP := $(BIN)/python -m pip install -q -c constraints.txt
pip_failed = $(call explain,"pip could not install $(1); its own message is above." \
  "Without a network name a local index in pip's settings: PIP_INDEX_URL or PIP_FIND_LINKS.")

.DELETE_ON_ERROR:
.PHONY: demo test setup built native mutations check-released lint bench bench-full clean gpu-test \
  gpu-bench gpu-built

demo: built
	@rm -rf $(DEMO) && mkdir -p $(dir $(DEMO))
	$(BIN)/switch-export --model examples/switch-tiny --output $(DEMO)
	$(BIN)/python examples/demo.py $(DEMO)

test: NATIVE_ARGS := -DSWITCH_BUILD_TESTS=ON
# One OpenMP thread each: those of several PyTorch processes that share cores wait for each other.
test: export OMP_NUM_THREADS := 1
# What the tests build runs make of its own, which this one's flags would make talk.
test: built
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Re-introduces known mistakes into a copy of the code, one at a time: a test must fail for each.
mutations: built
	$(BIN)/python tests/mutations.py

# Needs a network: exports the real switch-base-8 and compares its decoding with published ids.
check-released: built
	$(BIN)/python tests/check_released.py

# Measures the README's cells, at most 20 minutes on two cores, and writes its tables. The machine has
# to be quiet.
bench: built $(VENV)/.stamp-bench
	$(BIN)/python -m switch_bench.suite

# Every cell: hours. Goes on where it was cut off.
bench-full: built $(VENV)/.stamp-bench
	$(BIN)/python -m switch_bench.suite --full

# --- on a machine with a GPU: no .venv, nothing is installed ---
GPU_TREE := build/gpu
gpu-test gpu-bench: export PYTHONPATH := $(CURDIR)/benchmarks:$(CURDIR)/exporter:$(CURDIR)/plugins/python
gpu-test gpu-built: export PATH := $(PATH):/usr/local/cuda/bin

gpu-test: gpu-built
	sh tests/gpu/native.sh $(GPU_TREE)
	$(GPU_PYTHON) -m pytest -q -p no:cacheprovider -c tests/gpu/pytest.ini tests/gpu $(PYTEST_ARGS)

gpu-bench: gpu-built
	$(GPU_PYTHON) -m switch_gpu_bench $(GPU_BENCH_ARGS)

# For the present GPU alone; 90a has the instructions that only 9.0 runs.
gpu-built:
	@set -e; capability=$$($(GPU_PYTHON) cmake/gpu_capability.py); \
	  cmake -S plugins/core/cuda -B $(GPU_TREE) -DCMAKE_CUDA_ARCHITECTURES=$$capability-real \
	    -DSWITCH_BUILD_TESTS=ON; \
	  cmake --build $(GPU_TREE) --parallel; \
	  cmake --install $(GPU_TREE) --component cuda --prefix plugins/python

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	git ls-files '*.h' '*.hpp' '*.c' '*.cc' '*.cu' | xargs -r $(BIN)/clang-format --dry-run --Werror

setup: $(VENV)/.stamp-install

built: setup
	@$(MAKE) --no-print-directory native NATIVE_ARGS=$(NATIVE_ARGS)

# --- set-up: a stamp per step, so that the second run is quick ---
$(VENV)/.stamp-python:
	@sh cmake/check_tools.sh "$(PYTHON)"
	@printf 'making %s with %s\n' $(VENV) "$$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) $(call explain,"$(PYTHON) -m venv failed")
	@touch $@

$(VENV)/.stamp-requirements: $(VENV)/.stamp-python constraints.txt
	@printf 'installing the build requirements\n'
	@$(PIP) setuptools wheel nlohmann-json $(call pip_failed,the build requirements)
	@cmake --version 2>/dev/null | awk '/^cmake version/ { split($$3, v, "."); ok = v[1] > 3 || v[2] >= 20 } \
	  END { exit !ok }' || { printf 'installing cmake\n'; \
	  $(PIP) cmake $(call pip_failed,cmake); }
ifneq ($(TORCH_INDEX),)
	@printf 'installing torch from %s\n' '$(TORCH_INDEX)'
	@$(PIP) --no-deps --index-url '$(TORCH_INDEX)' torch $(call pip_failed,torch from $(TORCH_INDEX))
endif
	@touch $@

$(VENV)/.stamp-install: $(VENV)/.stamp-requirements setup.cfg setup.py pyproject.toml VERSION
	@$(MAKE) --no-print-directory native  # first, so that a build that fails is not taken for pip's
	@printf 'installing with everything the tests need: a few minutes\n'
	@$(PIP) --no-build-isolation -e '.[test]' $(call pip_failed,switch-export and its dependencies)
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-install
	@$(PIP) ctranslate2 matplotlib $(call pip_failed,the peers of the benchmarks)
	@touch $@

$(VENV)/.stamp-lint: $(VENV)/.stamp-requirements setup.cfg
	@$(PIP) $$(sed -n '/^lint =/,/^$$/s/^    //p' setup.cfg) $(call pip_failed,the linters)
	@touch $@

# The libraries alone, rebuilt where a source changed, into the packages of this checkout.
native:
	@mkdir -p build; cmake -S . -B $(TREE) $(NATIVE_ARGS) \
	  -DPython_EXECUTABLE="$$(command -v $(CURDIR)/$(BIN)/python || command -v $(PYTHON))" \
	  >$(TREE).log $(call explain,"cmake could not configure the native libraries; its message is above.")
	@cmake --build $(TREE) --parallel -- --no-print-directory -s \
	  $(call explain,"the native libraries do not compile; the compiler's message is above.")
	@cmake --install $(TREE) --component runtime --prefix runtime/python >>$(TREE).log
	@cmake --install $(TREE) --component plugins --prefix plugins/python >>$(TREE).log

# Leaves .venv: remove that folder too for a set-up from nothing.
clean:
	rm -rf build dist *.egg-info runtime/python/switch_runtime/lib/*.so plugins/python/switch_plugins/lib/*.so
