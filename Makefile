# One word a chore. Each target sets up what it needs by itself; a second run re-installs nothing.

PYTHON ?= python3
BIN := .venv/bin
EDGE := .venv-edge/bin
MANIFESTS := pyproject.toml runtime/pyproject.toml runtime/serve/pyproject.toml runtime/score/pyproject.toml \
  runtime/mnist_runtime/__init__.py hatch_build.py constraints.txt

# PyPI's torch for Linux brings CUDA, several GB. Where no NVIDIA driver and no configured index of pip is found, torch's
# CPU build comes from the address that pytorch.org gives. `make TORCH_INDEX= demo` takes PyPI's; another address works too.
CPU_BUILDS := https://download.pytorch.org/whl/cpu
# Its first use replaces the variable by its value, because pip takes half a second to answer.
TORCH_INDEX ?= $(eval TORCH_INDEX := $(shell [ "$$(uname -s)" != Linux ] || [ -e /proc/driver/nvidia ] || \
  command -v nvidia-smi > /dev/null || $(PYTHON) -m pip config list 2> /dev/null | grep -q -e index -e find-links || \
  echo $(CPU_BUILDS)))$(TORCH_INDEX)
# On a terminal, pip shows its progress.
PIP_FLAGS := --constraint constraints.txt $(shell [ -t 2 ] || echo --quiet)

COMPAT_VENVS := .venv-compat
# What old devices have, a set of requirements each, from the oldest declared in runtime/pyproject.toml to whatever is
# newest. Those two, which name Pillow, run the runtime's tests but the heavy ones; all replay golden digits.
# onnxruntime < 1.19 needs numpy 1.
COMPAT := onnxruntime==1.15.1,numpy==1.26.0,click==8.1.0,pillow==10.3.0 onnxruntime==1.17.3,numpy==1.26.4 \
  onnxruntime==1.20.1 onnxruntime,numpy,click,pillow
COMPAT_TESTS := pytest pytest-timeout hypothesis jsonschema onnx scikit-learn

SECONDS ?= 600

# Engines that read ONNX, a set of requirements each; onnxruntime < 1.19 needs numpy 1.
ENGINES := .venv-engines
ENGINE_PACKAGES := onnxruntime==1.15.1,numpy==1.26.4 onnxruntime==1.20.1,numpy onnxruntime,numpy tract,numpy \
  opencv-python-headless,numpy ncnn,numpy

EDGE_PACKAGES := gcc g++ clang libclang-rt-dev gcc-arm-none-eabi gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf \
  gcc-riscv64-linux-gnu gcc-s390x-linux-gnu libc6-dev-arm64-cross libc6-dev-armhf-cross libc6-dev-riscv64-cross \
  libc6-dev-s390x-cross qemu-user qemu-system-arm

EDGE_NPM := typescript@7.0.2 hermes-engine-cli@0.12.0

.PHONY: demo quick test test-heavy test-browser test-edge engines test-ray check bench soak compat docs fuzz model clean

demo: .venv/demo .venv-edge/demo  ## train, export, prove parity, and recognise a digit without torch
	@echo "\n== Train: the lab's loop on 50,000 digits =="
	$(BIN)/mnist-train
	@echo "\n== Export: each artifact is held against the trained module before it is published =="
	$(BIN)/mnist-export
	@echo "\n== A digit that the model has never seen =="
	$(BIN)/mnist-data save 0 artifacts/digit.npy --split test
	@echo "\n== The edge: an environment without torch =="
	@$(EDGE)/python -c "import torch" 2>&1 | grep "No module named 'torch'"
	$(EDGE)/mnist-parity artifacts/mnist.onnx
	$(EDGE)/mnist-infer artifacts/digit.npy --model artifacts/mnist.onnx
	@echo "\n== Try next =="
	@echo "$(BIN)/mnist-infer examples/ruled.jpg    # a photograph of a digit"
	@echo "$(BIN)/mnist-serve                       # draw one yourself, at http://127.0.0.1:8000"
	@echo "$(BIN)/mnist-train --model mlp --optimizer adamw --lr 0.001 --epochs 5 --shuffle --output-dir artifacts/mlp"

quick: .venv/dev  ## the tests that start no torch process, no Ray and no server, and kill nothing
	$(BIN)/python -m pytest -n 2 -q -m "not slow and not heavy"

test: check  ## every test that needs nothing but Python, without those of test-heavy; doctests and branch coverage
	@echo "Every test but the heavy ones, some 10 minutes on two cores."
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not heavy" \
	  --ignore tests/browser --ignore tests/edge --ignore tests/score/with_ray \
	  -rs --cov --cov-report=term-missing:skip-covered

test-heavy: .venv/dev  ## what trains, exports or reads pictures for a minute: long pages of docs/, the lab's script
	$(BIN)/python -m pytest -n 2 -m heavy tests/docs tests/train tests/runtime

test-browser: .venv/dev  ## the page in a real Chromium, which must be there, served and from a file
	REQUIRE_CHROMIUM=1 $(BIN)/python -m pytest tests/browser

test-edge: .venv/dev  ## mnist.h on nine processors, mnist.mjs in node and Hermes; installs what that takes (Debian, npm)
	@dpkg -s $(EDGE_PACKAGES) > /dev/null 2>&1 || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get update && $$as_root apt-get install --yes --no-install-recommends $(EDGE_PACKAGES); }
	@command -v node npm > /dev/null || { as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$as_root apt-get update && $$as_root apt-get install --yes --no-install-recommends nodejs npm; }
	@test -d $(ENGINES)/npm/node_modules || npm install --silent --prefix $(ENGINES)/npm $(EDGE_NPM)
	@chmod +x $(ENGINES)/npm/node_modules/hermes-engine-cli/linux64-bin/hermes
	REQUIRE_EDGE=1 $(BIN)/python -m pytest -n 2 tests/edge

engines: .venv/dev  ## the exact network in other engines, each in an environment of its own: equal or not
	@$(BIN)/python -m pip install --quiet --no-deps pnnx
	@$(BIN)/python tests/edge/engines.py prepare $(ENGINES)/models
	@for wanted in $(ENGINE_PACKAGES); do \
	  folder=$(ENGINES)/$$wanted; \
	  test -x $$folder/bin/python || $(PYTHON) -m venv --without-pip $$folder || exit 1; \
	  $(BIN)/python -m pip --python $$folder/bin/python install --quiet $$(echo $$wanted | tr , ' ') || exit 1; \
	  echo "$$wanted"; \
	  $$folder/bin/python tests/edge/engines.py $$(echo $$wanted | sed 's/[-=,].*//') $(ENGINES)/models || exit 1; \
	done
	@$(ENGINES)/ncnn,numpy/bin/python tests/edge/engines.py ncnn_winograd $(ENGINES)/models
	@npm install --silent --prefix $(ENGINES)/web onnxruntime-web && cp tests/edge/engine.mjs $(ENGINES)/web
	@node $(ENGINES)/web/engine.mjs $(ENGINES)/models && $(BIN)/python tests/edge/engines.py web $(ENGINES)/models

test-ray: .venv/dev  ## mnist-score on a Ray of two nodes of this machine, with scorers and runs killed; some minutes
	$(BIN)/python -m pytest tests/score/with_ray tests/score/test_cli.py --cov --cov-config=tests/score/coverage.toml --cov-report=term-missing

check: .venv/dev  ## style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev  ## every claim of speed, side by side with what you would pick instead
	@test -x .venv-peers/bin/mlserver || { echo "Setting up .venv-peers with MLServer: a minute or two, the first time only."; \
	  $(PYTHON) -m venv .venv-peers && \
	  .venv-peers/bin/python -m pip install --quiet mlserver==1.7.1 onnxruntime; }
	@$(BIN)/python benchmarks/_all.py

compat: .venv/demo  ## the runtime's tests and every ONNX format with old and new onnxruntimes, without torch
	@$(BIN)/mnist-train --device cpu --output-dir artifacts/compat > /dev/null
	@for opset in 13 18; do $(BIN)/mnist-export artifacts/compat/mnist.safetensors --opset $$opset \
	  --format onnx --format onnx-uint8 --format onnx-exact --output-dir artifacts/compat/opset$$opset > /dev/null || exit 1; done
	@for wanted in $(COMPAT); do \
	  folder=$(COMPAT_VENVS)/$$wanted; \
	  test -x $$folder/bin/python || $(PYTHON) -m venv --without-pip $$folder || exit 1; \
	  $(BIN)/python -m pip --python $$folder/bin/python install --quiet --upgrade --editable './runtime[image]' \
	    $$(echo $$wanted | tr , ' ') $$(case $$wanted in *pillow*) echo $(COMPAT_TESTS);; esac) || exit 1; \
	  for opset in 13 18; do \
	    echo "\n== $$wanted, opset $$opset =="; \
	    $$folder/bin/mnist-parity artifacts/compat/opset$$opset || exit 1; \
	  done; \
	  case $$wanted in *pillow*) PYTHONPATH=train $$folder/bin/python -m pytest -q -rs -p no:cacheprovider \
	    -m "not heavy" tests/runtime --exported artifacts/compat/opset18 || exit 1;; esac; \
	done

docs: .venv/dev  ## the commands of every page, each page in a new environment with what the page installs
	$(TORCH_INDEX:%=PIP_EXTRA_INDEX_URL=%) FRESH_ENVIRONMENTS=1 $(BIN)/python -m pytest -n 2 tests/docs

fuzz: .venv/dev  ## 20,000 damaged files, of every kind that the runtime reads; as many guided by coverage if there is atheris
	$(BIN)/python tests/runtime/fuzz.py 20000
	$(BIN)/python tests/runtime/fuzz_guided.py 20000

soak: .venv/dev  ## good, bad, slow and dropped clients on one server, for ten minutes unless SECONDS says otherwise
	$(BIN)/python tests/serve/soak.py $(SECONDS)

model: .venv/dev  ## make the bundled models again
	$(BIN)/mnist-train --device cpu --output-dir artifacts/bundled
	$(BIN)/mnist-export artifacts/bundled/mnist.safetensors --format onnx --format onnx-uint8 --output-dir artifacts/bundled
	cp artifacts/bundled/mnist.onnx runtime/mnist_runtime/bundled/mnist-linear.onnx
	cp artifacts/bundled/mnist.uint8.onnx runtime/mnist_runtime/bundled/mnist-linear.uint8.onnx
	$(BIN)/mnist-train --config recipes/cnn.toml --output-dir artifacts/cnn
	$(BIN)/mnist-export artifacts/cnn/mnist.safetensors --format onnx-exact --output-dir artifacts/cnn
	cp artifacts/cnn/mnist.exact.onnx runtime/mnist_runtime/bundled/mnist-cnn.exact.onnx
	@git diff --quiet runtime/mnist_runtime/bundled || echo "Other bytes than those committed, as on another processor;" \
	  "to keep the committed ones: git checkout runtime/mnist_runtime/bundled"

clean:  ## forget the environments and caches; artifacts stay
	rm -rf .venv .venv-edge .venv-compat .venv-engines .venv-peers .mypy_cache .ruff_cache .pytest_cache .coverage .import_linter_cache

.venv/demo: $(MANIFESTS)
	@echo "Setting up .venv with torch, onnx and onnxruntime: a minute or two, about 1 GB, the first time only."
	@test -z "$(TORCH_INDEX)" || echo "torch comes from $(TORCH_INDEX); for PyPI's: make TORCH_INDEX= demo"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install $(PIP_FLAGS) $(TORCH_INDEX:%=--extra-index-url %) \
	  --editable './runtime[image]' --editable ./runtime/serve --editable .
	@touch $@

.venv/dev: .venv/demo
	@echo "Adding the tools of development to .venv."
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable './runtime/score[ray]' --editable '.[dev]'
	@touch $@

.venv-edge/demo: .venv/demo
	@echo "Setting up .venv-edge with numpy, onnxruntime and click alone."
	@test -x $(EDGE)/python || $(PYTHON) -m venv --without-pip .venv-edge
	@$(BIN)/python -m pip --python $(EDGE)/python install $(PIP_FLAGS) --editable ./runtime
	@touch $@
