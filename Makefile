# Everything sets up .venv by itself, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-long test-trainers check bench soak serve wheel format clean

# The demo's data stay in ./demo, to be looked at.
demo: $(VENV)/.demo
	$(BIN)/owl-stream demo --directory demo

# Tests mostly wait for processes and clocks: two files at a time.
test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile -m "not long and not trainers"

# Those that wait for minutes, until a peer is given up or a run hangs.
test-long: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile -m "long and not trainers"

# Every trainer by its own launcher. Some lie in folders of their own, where only their tests see them; ms-swift and
# LLaMA-Factory with the older versions of transformers that they take.
test-trainers: $(VENV)/.deepspeed $(VENV)/.trl $(VENV)/.swift $(VENV)/.llamafactory
	$(BIN)/pytest -m trainers tests/trainers

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

# The real samples where they lie beside the checkout, else synthetic ones.
REAL := $(wildcard ../shared/data/real/*.tar)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.environments
	$(BIN)/python -m benchmarks.padding $(if $(REAL),--shards $(REAL) --tokenizer ../shared/data/qwen2-tokenizer.json)
	$(BIN)/python -m benchmarks --json .cache/bench.json $(ARGS) \
		$(if $(REAL),--photographs $(REAL) --tokenizer ../shared/data/qwen2-tokenizer.json)

# Random faults on real processes for so long: make soak SECONDS=3600 SEED=7 LAYOUT=qwen2_5_vl
SECONDS ?= 60
SEED ?= 0
LAYOUT ?= owl3-240728

soak: $(VENV)/.dev
	$(BIN)/python -m tests.faults.soak --seconds $(SECONDS) --seed $(SEED) --layout $(LAYOUT)

# One wheel with server and client, in dist/: what other machines install.
wheel: | $(BIN)/python
	rm -f dist/*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

# make serve ARGS='--config owl-stream.yaml'
serve: $(VENV)/.demo
	$(BIN)/owl-stream serve $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev,bench]'
	touch $@ $(VENV)/.dev $(VENV)/.demo

# Without its dependencies, most of which are there; those that are not are named. It compiles nothing for CUDA.
$(VENV)/.deepspeed: constraints.txt | $(VENV)/.dev
	DS_BUILD_OPS=0 $(PIP) --upgrade --target $(VENV)/deepspeed --no-deps deepspeed hjson ninja py-cpuinfo einops
	touch $@

$(VENV)/.trl: constraints.txt | $(VENV)/.dev
	$(PIP) --upgrade --target $(VENV)/trl --no-deps trl datasets pyarrow dill multiprocess pandas python-dateutil
	touch $@

$(VENV)/.swift: tests/trainers/swift.txt | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(VENV)/swift --no-deps -r $<
	touch $@

# It imports torchaudio, for sound. The compiled part of that is for CUDA, and torchaudio does without.
$(VENV)/.llamafactory: tests/trainers/llama_factory.txt | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target $(VENV)/llamafactory --no-deps -r $<
	rm -f $(VENV)/llamafactory/torchaudio/lib/*.so
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.demo
