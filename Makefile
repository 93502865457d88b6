# Everyday commands. `make demo` and `make test` work on a new machine with Python 3.11, make, git and gcc.

PYTHON ?= python3
# Models that `make peers` measures anew; all by default.
ONLY   ?=
# The newest onnx2tf wants a newer Python than ours.
PEERS  ?= $(shell command -v python3.12 || echo $(PYTHON))
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test dev check wheel device-wheel bench peers int8-peers serve-peers serve-schema runtime-peers monitor-peers stress lowest clean help

help:            ## this list
	@grep -E '^[a-z0-9-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

# The environment: the tested versions of everything, installed once and again when they change.
$(READY): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps tritonclient
	@touch $@

dev: $(READY)    ## environment, and links that let type checkers see through the package mapping
	@for part in converters runtimes device_profiles; do ln -sfn ../$$part edgekit/$$part; done

demo: $(READY)   ## train, convert to int8 for a Raspberry Pi 4B, verify, measure, run one sample
	@$(BIN)/python examples/demo.py

test: $(READY)   ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

wheel: $(READY)  ## dist/*.whl
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --wheel --quiet .

# Without converters, for boards: which modules it has stands in edgekit/parts.toml.
device-wheel: $(READY) ## dist/edgekit_runtime-*.whl
	rm -f dist/edgekit_runtime-*.whl
	$(BIN)/python -m build --wheel --quiet --outdir dist distributions/runtime

# Linted is the tree; type-checked is the installed wheel, because that is what users get.
check: wheel     ## ruff, mypy and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/check && $(BIN)/python -m pip install --quiet --no-deps --target build/check dist/*.whl
	cd build/check && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy -p edgekit
	$(BIN)/pyright --project tests/typing/pyrightconfig.json --pythonpath $(BIN)/python

# Those that need no file, no other tool and no idle hour; `make bench BENCH=flow` runs one, with `python benchmarks/NAME.py --help`
# for the others.
BENCH = models conversion_time runtime_overhead predict_overhead bench_against_loops preparation capture monitor_cost
bench: $(READY)  ## benchmarks that need nothing else, as JSON lines (BENCH="flow ..." for others)
	@for name in $(BENCH); do echo "# benchmarks/$$name.py" >&2; $(BIN)/python benchmarks/$$name.py || exit 1; done

peers: $(READY)  ## float conversion beside onnx2tf and litert-torch, each in an environment of its own
	@for tool in onnx2tf litert-torch; do \
	    test -d build/peers/$$tool || { $(PEERS) -m venv build/peers/$$tool && build/peers/$$tool/bin/python -m pip install --quiet $$tool; } || exit 1; \
	done
	$(BIN)/python benchmarks/tflite_peers.py build/peers --rows build/peers/float.jsonl --keep build/peers/float --only "$(ONLY)" --write $(wildcard ../shared/models/*/*.onnx) \
	    $(addprefix resnet20=,$(wildcard ../shared/models/cifar_resnet20/*.th))

# onnx2tf quantizes by TensorFlow, which it does not ask for; an environment that was left half made is made again.
int8-peers: $(READY) ## int8 beside TensorFlow, ai-edge-quantizer, onnxruntime, onnx2tf and NNCF
	@for tool in onnx2tf nncf; do \
	    test -e build/peers/$$tool/.int8 && continue; \
	    more=; test $$tool = onnx2tf && more="tensorflow tf_keras"; \
	    echo "installing $$tool ..."; \
	    $(PEERS) -m venv build/peers/$$tool && build/peers/$$tool/bin/python -m pip install --quiet $$tool onnx onnxruntime $$more \
	        && touch build/peers/$$tool/.int8 || exit 1; \
	done
	$(BIN)/python benchmarks/int8_peers.py build/peers --write
	@for source in $(wildcard ../shared/models/face_ultraface_onnx/*.onnx); do \
	    $(BIN)/edgekit convert $$source -o build/peers/ultraface.onnx && \
	    $(BIN)/edgekit convert $$source -o build/peers/ultraface.tflite && \
	    $(BIN)/python benchmarks/calibration_peers.py build/peers/ultraface.onnx build/peers --write; \
	done

serve-peers: $(READY) ## the server beside MLServer, KServe's and BentoML (needs wrk)
	@for tool in mlserver kserve bentoml; do \
	    test -d build/peers/$$tool || { $(PYTHON) -m venv build/peers/$$tool && build/peers/$$tool/bin/python -m pip install --quiet $$tool onnxruntime; } || exit 1; \
	done
	@test -d build/peers/edgekit || $(PYTHON) -m venv build/peers/edgekit
	build/peers/edgekit/bin/python -m pip install --quiet --upgrade '.[onnx,serve]'
	@for source in $(wildcard ../shared/models/mnist_cnn_onnx/*.onnx); do \
	    $(BIN)/python benchmarks/serve_peers.py build/peers $$source --write; \
	done

serve-schema: $(READY) ## the server against its own OpenAPI document, by schemathesis
	@test -x build/peers/schema/bin/schemathesis || { $(PYTHON) -m venv build/peers/schema && build/peers/schema/bin/python -m pip install --quiet schemathesis; }
	$(BIN)/python benchmarks/serve_schema.py build/peers/schema/bin/schemathesis

RUNTIME_PEERS = "opencv opencv-python-headless librosa ai-edge-litert" "mediapipe mediapipe ai-edge-litert" \
    "modelapi openvino-model-api onnx onnxruntime" "rapidocr rapidocr-onnxruntime" "nudenet nudenet"

runtime-peers: wheel ## predict beside OpenCV, librosa, MediaPipe, model_api, RapidOCR and NudeNet
	@for tool in $(RUNTIME_PEERS); do set -- $$tool; name=$$1; shift; \
	    test -d build/peers/$$name || { $(BIN)/python -m venv build/peers/$$name && build/peers/$$name/bin/python -m pip install --quiet "$$@"; } || exit 1; \
	done
	rm -rf build/peers/edgekit-files && $(BIN)/python -m pip install --quiet --no-deps --target build/peers/edgekit-files dist/*.whl
	$(BIN)/python benchmarks/runtime_peers.py --write

monitor-peers: $(READY)  ## the monitor beside other drift detectors, each in an environment of its own
	$(BIN)/python benchmarks/monitor_peers.py edgekit
	$(BIN)/python benchmarks/monitor_peers.py edgekit-32
	$(BIN)/python benchmarks/monitor_peers.py edgekit-bold
	@for pair in river:river-adwin river:river-adwin-alike river:river-page-hinkley frouros:frouros-ks alibi-detect:alibi-ks evidently:evidently; do \
	    package=$${pair%%:*}; folder=build/peers/$$package; \
	    test -x $$folder/bin/python || { python3 -m venv $$folder && $$folder/bin/pip install -q $$package "pandas<3"; } || exit 1; \
	    $$folder/bin/python benchmarks/monitor_peers.py $${pair#*:} --runs 5 --long 3000; \
	done

stress: $(READY) ## the long runs, about an hour: mutated files, killed conversions and deployments, threads
	$(BIN)/python -m pytest -n 2 --dist load -q tests/stress tests/store tests/runtime/test_threads.py tests/runtime/ssh tests/runtime/serve/test_siege.py \
	    tests/runtime/serve/test_life.py --run-stress

# What pip would never choose by itself, and boards have: numpy 1 and the first release of everything that is allowed.
lowest: wheel    ## the runtime, the monitor and the server with the lowest versions that pyproject.toml allows
	rm -rf build/lowest && $(PYTHON) -m venv build/lowest && build/lowest/bin/python -m pip install --quiet uv
	build/lowest/bin/uv pip install --quiet --resolution lowest-direct --python build/lowest/bin/python \
	    "$$(ls dist/edgekit_sdk-*.whl)[onnx,tflite,convert,sklearn,serve,sign,report]" 'pytest>=9' 'hypothesis>=6.100'
	cd build/lowest && bin/pytest -q -W default -c ../../pyproject.toml $(addprefix ../../tests/,unit/test_npz.py runtime monitor) \
	    --ignore ../../tests/runtime/ssh

clean:           ## remove what was made here
	rm -rf build dist demo $(VENV) edgekit/converters edgekit/runtimes edgekit/device_profiles
