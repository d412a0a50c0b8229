# Everything lives in .venv, made on first use; a stamp file per set of extras keeps a second call quick.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check --require-virtualenv
SAMPLE := sample_runs/19-spike-001
# The kernels that torch chooses on a lesser processor than this one.
LESSER := $(shell grep -qsm1 avx512f /proc/cpuinfo && echo avx2 || echo default)

# One numeric thread per process: two test workers on two cores, and runs that repeat bit for bit.
export OMP_NUM_THREADS ?= 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

# A Python without ensurepip (some distributions split it off) still has pip itself, which can fill the environment.
.venv/made:
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' found: say which Python, as in: make demo PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"postmortem needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Say which Python, as in: make demo PYTHON=python3.12")'
	@rm -rf .venv
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { \
		$(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(PY) install --quiet pip; }
	@touch $@

.venv/core: .venv/made pyproject.toml
	@echo "Installing postmortem into .venv (once; no torch, about 400 MB) …"
	@$(PIP) install --quiet --editable .
	@touch $@

.venv/test: .venv/made pyproject.toml
	@echo "Installing postmortem, torch and the test tools into .venv (once; about 1.5 GB) …"
	@$(PIP) install --quiet --editable '.[train,huggingface,lightning,test]'
	@touch .venv/core $@

.venv/dev: .venv/test
	@$(PIP) install --quiet --editable '.[train,huggingface,lightning,test,dev]'
	@touch $@

.venv/formats: .venv/test
	@$(PIP) install --quiet --editable '.[train,huggingface,lightning,test,test-formats]'
	@touch $@

.venv/bench: .venv/test
	@$(PIP) install --quiet --editable '.[train,huggingface,lightning,test,bench]'
	@touch $@

.PHONY: demo
demo: .venv/core ## Install the core and draft the sample run's post-mortem
	@$(BIN)/postmortem draft $(SAMPLE)

.PHONY: test
test: .venv/test ## Install everything and run all tests
	@$(PY) -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: coverage
coverage: .venv/dev ## Run all tests as `test` does, and hold the share of the code that they reach
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --numprocesses $(WORKERS) --dist worksteal
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: test-formats
test-formats: .venv/formats ## Run the readers on files that the real libraries write, also those not installed by `test`
	@$(PY) -m pytest tests/sources --numprocesses $(WORKERS) --dist worksteal

.PHONY: test-fast
test-fast: .venv/test ## Run the quick tests: few trainings, few processes (about a minute)
	@$(PY) -m pytest -m 'not (slow or lab_bench or processes or heavy)'

.PHONY: test-bits
test-bits: .venv/test ## Run the tests that hold bits once more, on lesser kernels than this machine's
	@ATEN_CPU_CAPABILITY=$(LESSER) $(PY) -m pytest --numprocesses $(WORKERS) --dist worksteal -m 'bits and not slow'

.PHONY: test-slow
test-slow: .venv/test ## Run the tests that take minutes
	@$(PY) -m pytest -m slow

.PHONY: format
format: .venv/dev ## Lay out the code, and fix what ruff can fix by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: lint
lint: .venv/dev ## Check style, layout, spelling and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/typos
	@$(BIN)/lint-imports

.PHONY: hooks
hooks: .venv/dev ## Let git check each commit and its message
	@$(BIN)/pre-commit install

.PHONY: types
types: .venv/dev ## Check the package's types, strictly
	@$(BIN)/basedpyright --pythonpath $(PY)

.PHONY: docs
docs: .venv/core ## Write the generated pages: causes, requirements, the sample report, README's excerpt
	@$(PY) scripts/make_docs.py

.PHONY: docs-check
docs-check: .venv/core ## Check that the generated pages are fresh
	@$(PY) scripts/make_docs.py --check

.PHONY: proof
proof: .venv/test ## Write README's four commands with their real output
	@$(PY) scripts/make_proof.py

.PHONY: proof-check
proof-check: .venv/test ## Check that README shows what its four commands print
	@$(PY) scripts/make_proof.py --check
	@ATEN_CPU_CAPABILITY=$(LESSER) $(PY) scripts/make_proof.py --check

.PHONY: goldens
goldens: .venv/test ## Rewrite the tests' golden files; read the diff before you commit it
	@$(PY) -m pytest --update-goldens

.PHONY: samples
samples: .venv/test ## Train the sample runs again, bit for bit where the machine allows it
	@$(PY) scripts/make_sample_runs.py

.PHONY: samples-check
samples-check: .venv/test ## Check that training the sample runs again gives the same runs
	@$(PY) scripts/make_sample_runs.py --check

.PHONY: bench
bench: .venv/bench ## Measure drafting and detection, and update docs/benchmarks.md (minutes)
	@$(PY) benchmarks/detectors.py --write
	@$(PY) benchmarks/public_cases.py --write
	@$(PY) benchmarks/draft_sample.py --write
	@$(PY) benchmarks/ordinary_log.py --write
	@$(PY) benchmarks/draft_vs_tensorboard.py --write
	@$(PY) benchmarks/event_readers.py --write
	@$(PY) benchmarks/runs_diff.py --write
	@$(PY) benchmarks/hostile_cost.py --write
	@$(PY) benchmarks/replay_overhead.py --write

.PHONY: lab-bench
lab-bench: .venv/test ## Fault bench on fresh lab seeds: resumable, slow (an hour or more)
	@$(PY) benchmarks/lab_faults.py --write

.PHONY: changed-bench
changed-bench: .venv/test ## Fault bench on programs that differ from the lab's: resumable, slow (40 minutes)
	@$(PY) benchmarks/changed_programs.py --write

.PHONY: prove-bench
prove-bench: .venv/test ## Prove causes on fresh lab seeds: resumable, slow (up to two hours)
	@$(PY) benchmarks/prove_faults.py --write

.PHONY: kills
kills: .venv/test ## Kill every writer 300 times, interrupt commands 100 times: resumable, slow (an hour or more)
	@$(PY) benchmarks/kills.py --write

.PHONY: fuzz
fuzz: .venv/test ## Feed damaged files to every reader and command: resumable, slow (an hour or more)
	@$(PY) benchmarks/fuzz.py --jobs $(WORKERS) --write

.PHONY: clean
clean: ## Remove what these targets made, the environment included
	@rm -rf .venv build dist .coverage .coverage.* .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
