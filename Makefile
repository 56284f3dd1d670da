# `make demo` and `make test` are all the set-up there is; both make .venv the first time.
# Another Python: make demo PYTHON=python3.12

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CONSTRAINTS := tests/constraints.txt
# A worker that crashes ends the run: with one in its place, those of the same file would be waited for without end.
TESTS := -q -n auto --max-worker-restart 0 --dist loadfile -m "not slow"
LCPRUNE := "$(BIN)/lcprune"
DEMO_IMAGES := 12

# Says a command before it runs.
define run
echo; echo "\$$ $(1)"; $(subst lcprune ,$(LCPRUNE) ,$(1))
endef

.PHONY: help demo install test slow constraints newest matrix coverage chaos fuzz mutation bench bench-gpu format clean

help:
	@echo "make demo       install into .venv, train on handwritten digits, export a model that stops early, use it"
	@echo "make test       install into .venv, then check format, lint and types, and run the tests; under 10 minutes"
	@echo "make slow       the tests that take longer than about ten seconds each"
	@echo "make newest     the tests in a fresh environment with the newest of everything; deprecations fail, too"
	@echo "make matrix     the tests with the oldest torch, the newest, and one between, each in a fresh environment"
	@echo "make constraints  write tests/constraints.txt, the versions that .venv gets, anew"
	@echo "make chaos      kill trainings, fill disks, flip bits: every promise of docs/reliability.md; under 30 minutes"
	@echo "make coverage   all tests, and which lines and branches they reach: at least 95 %; an hour"
	@echo "make fuzz       look for inputs that break the readers, the choices and the stitching; about 20 minutes"
	@echo "make mutation   change the code in small ways and see which changes no test notices; hours"
	@echo "make bench      measure speed, memory and start on this CPU, into benchmarks/results/; about 10 minutes"
	@echo "make bench-gpu  the same on a CUDA device; what was measured is kept, and the same command goes on"
	@echo "make format     format the code and fix what the linter can"
	@echo "make clean      remove demo/, builds and caches; .venv, runs/ and data/ stay"

install: $(INSTALLED)

# Of pip's output only what takes long is shown.
define pip_install
PYTHONUNBUFFERED=1 "$(1)/python" -m pip install --disable-pip-version-check --progress-bar off $(2) \
	| awk '/^ *(Downloading|Using cached) .*whl \([0-9.]+ [MG]B\)/ \
			{ sub(/-(cp|py)[0-9].*whl/, ""); sub(/^ */, ""); print "  " $$0; fflush() } \
		/^Installing/ && NF > 4 { print "  Installing " NF - 3 " packages"; fflush() }'
endef

# Done once, and again when the versions have changed. They are those of the constraints, setuptools included (hence no
# isolation), unless pip cannot have them, as on a Python for which there are no wheels: then the newest that fit.
$(INSTALLED): pyproject.toml runtime/pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: lcprune needs Python 3.11 or newer, and $(PYTHON) is not"; \
		  echo "  fix: name one, such as make demo PYTHON=python3.12"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) and installing lcprune into it"
	@echo "(the first time some minutes: torch is large)"
	@$(PYTHON) -m venv --clear "$(VENV)"
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	{ $(call pip_install,$(BIN),-c $(CONSTRAINTS) setuptools) && \
	  $(call pip_install,$(BIN),-c $(CONSTRAINTS) --no-build-isolation -e runtime -e '.[dev]'); } 2> "$$log" || { \
		echo "$(CONSTRAINTS) cannot be met here ($$(sed -n '/^ERROR: /{s///p;q;}' "$$log")): taking the newest versions"; \
		$(call pip_install,$(BIN),-e runtime -e '.[dev]'); \
	}
	@touch $(INSTALLED)
	@echo "Installed."

# The newest that pip finds, for the oldest Python: what has wheels for it has them for newer ones, too. Without what
# exists on one platform alone, of which torch itself names the exact versions.
constraints:
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder"; \
	$(call pip_install,$$folder/bin,-e runtime -e '.[dev]'); \
	{ echo "# The versions that the tests run with; \`make constraints\` wrote them, with $$($(PYTHON) --version)."; \
	  "$$folder/bin/python" -m pip freeze --all --exclude-editable --exclude pip \
		| sed -E '/^(nvidia-|cuda-|triton=)/d; s/\+.*//'; } > "$$folder/constraints.txt"; \
	mv "$$folder/constraints.txt" $(CONSTRAINTS)

# Options: make matrix ROWS="oldest between" SEED=7 TESTS="-n 2 tests/exporters", and SAVE=--save for the page
ROWS :=
SEED :=
matrix: $(INSTALLED)
	@"$(BIN)/python" -m benchmarks.matrix $(ROWS) $(SEED:%=--seed %) $(SAVE) -- $(TESTS)

newest:
	@$(MAKE) matrix ROWS=newest

# Images of 8x8 pixels are too little work for two threads, which would only wait for each other on a busy machine.
demo test slow coverage matrix: export OMP_NUM_THREADS ?= 1

demo: $(INSTALLED)
	@rm -rf demo/runs demo/images && mkdir -p demo
	@echo
	@echo "1. Train on 1,797 handwritten digits of 8x8 pixels: one training, four networks. A quarter of a minute."
	@cd demo && $(call run,lcprune train digits)
	@echo
	@echo "2. Choose the smallest of the four that is expected to lose at most two points of accuracy on new images."
	@cd demo && $(call run,lcprune select --max-drop 2.0)
	@echo
	@echo "3. Write all four as one ONNX model: an image leaves at the first exit that is 99 % sure."
	@echo "   (By hand, to see every exit at work. The digits are so easy that thresholds chosen on the validation"
	@echo "   images, which is the default, would stop nearly everything at the first exit.)"
	@cd demo && $(call run,lcprune export --format onnx --progressive --threshold 0.99)
	@echo
	@echo "4. Classify $(DEMO_IMAGES) images of the test set, with onnxruntime alone. 7_021.png shows a 7."
	@"$(BIN)/python" examples/digit_images.py demo/images --count $(DEMO_IMAGES) > /dev/null
	@cd demo && $(call run,lcprune predict runs/latest/export/progressive.onnx images)
	@echo
	@echo "Done. Everything is in demo/; README.md says how to train on CIFAR-10 or on images of your own."

test: $(INSTALLED)
	@echo "Format: ruff format --check"
	@"$(BIN)/ruff" format --check .
	@echo "Lint: ruff check"
	@"$(BIN)/ruff" check .
	@echo "Types: mypy"
	@"$(BIN)/mypy"
	@echo "Tests: pytest, without those marked slow"
	@"$(BIN)/python" -m pytest $(TESTS) --durations=15

# SLOW: which of them, as .ci/run has it
slow: SLOW ?= slow
slow: $(INSTALLED)
	@"$(BIN)/python" -m pytest -q -n auto --max-worker-restart 0 --dist loadgroup --durations=15 -m "$(SLOW)"

coverage: $(INSTALLED)
	@"$(BIN)/python" -m pytest -q -n auto --dist loadfile --cov --cov-report=term

# Without PYTHONWARNINGS, setuptools warns of every editable install. Options: make fuzz FUZZ_SECONDS=60 FUZZ_EXAMPLES=500
fuzz: export OMP_NUM_THREADS ?= 1
fuzz: export FUZZ_EXAMPLES ?= 500
fuzz: FUZZ_SECONDS ?= 200
fuzz: $(INSTALLED)
	@PYTHONWARNINGS=ignore "$(BIN)/python" -m pip install --disable-pip-version-check -q -e '.[fuzz]'
	@for target in yaml metadata onnx image folder; do \
		echo "Fuzzing: $$target, $(FUZZ_SECONDS) s"; \
		"$(BIN)/python" -m tests.trials.fuzz_readers $$target --seconds $(FUZZ_SECONDS) > .fuzz.log 2>&1 \
			|| { cat .fuzz.log; exit 1; }; \
		grep -E '^(stat::number_of_executed_units|Done)' .fuzz.log; \
	done; rm -f .fuzz.log
	@echo "Properties: $(FUZZ_EXAMPLES) examples each"
	@"$(BIN)/python" -m pytest -q tests/fuzz

# Interrupted, it continues; remove mutants/ to begin anew. Options: make mutation ARGS="'lcprune.analysis.select*'"
mutation: export OMP_NUM_THREADS ?= 1
mutation: $(INSTALLED)
	@"$(BIN)/mutmut" run $(ARGS)
	@"$(BIN)/python" -m tests.trials.mutants

# Options: make chaos ARGS="--only kill bit_flip --share 0.1"
chaos: export OMP_NUM_THREADS ?= 1
chaos: $(INSTALLED)
	@"$(BIN)/python" -m tests.trials.faults $(ARGS)

# Options: make bench ARGS="--only speed memory"
bench: $(INSTALLED)
	@"$(BIN)/python" -m benchmarks.bench $(ARGS)

bench-gpu: $(INSTALLED)
	@"$(BIN)/python" -m benchmarks.gpu $(ARGS)

format: $(INSTALLED)
	@echo "Formatting, and fixing what the linter can"
	@"$(BIN)/ruff" format .
	@"$(BIN)/ruff" check --fix .

clean:
	@echo "Removing demo/, builds and caches (.venv, runs/ and data/ stay)"
	@rm -rf demo build dist mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .fuzz.log
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
