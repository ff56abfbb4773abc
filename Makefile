# Two commands for a newcomer: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint format bench-checks bench-corpora bench-dialogue bench-evals bench-simulate bench-train bench-tutor

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	touch $@

demo: .venv/.done
	$(BIN)/maieutic demo --out demo-run

# Two workers with one thread each: tiny models gain nothing from more threads.
test: .venv/.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Every test, with every optional library: a missing library is a failure here. The first run builds llama.cpp, without
# its image tools and with little optimisation, which takes half the time. ONLY="-m slow" leaves out what `make test` ran.
test-all: .venv/.done
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1" $(BIN)/python -m pip install \
		--quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,alpaca,embed,serve,llama,examples]'
	OMP_NUM_THREADS=1 MAIEUTIC_TEST_ALL=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ONLY)

lint: .venv/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: .venv/.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-checks: .venv/.done
	$(BIN)/python benchmarks/checks.py --out benchmarks/results/checks.json

bench-corpora: .venv/.done
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/corpora.py --out benchmarks/results/corpora.json
	$(BIN)/python benchmarks/corpora_memory.py --json benchmarks/results/corpora_memory.json

# The closed loop in the closed world, seeds 0, 1 and 2, on the test part.
bench-dialogue: .venv/.done
	mkdir -p benchmarks/results
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/dialogue.py --out benchmarks/results/dialogue.json

bench-evals: .venv/.done
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/evals.py --out benchmarks/results/evals.json

bench-simulate: .venv/.done
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/simulate.py --out benchmarks/results/simulate.json

bench-train: .venv/.done
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/train_sft.py --out benchmarks/results/train_sft.json
	$(BIN)/python benchmarks/train_dpo.py --out benchmarks/results/train_dpo.json

bench-tutor: .venv/.done
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/tutor.py --out benchmarks/results/tutor.json
