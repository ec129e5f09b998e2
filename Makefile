# Every daily chore. `make demo` and `make test` need Python 3.11+, make and a package index, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two processes, each with one thread for its matrix products: more would only wait for one another.
PYTEST := PYTEST_PLUGINS=tests.early OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The oldest transformers that factorized folders are for, beside the newest; tests run it in a process of its own.
OLDEST := transformers==4.46.3 tokenizers==0.20.3 huggingface-hub==0.26.5

# Strict: a link that leads nowhere is an error (with --quiet it would be none). The variable silences an advertisement.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo test check format docs bench clean

demo: $(READY)  ## what the tool does, on a sample model with an embedded data set
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo.sh

# In both, what takes one core is beside the tests: two are then busy from the first second to the last.
test: $(READY)  ## everything CI checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	($(BIN)/python docs/generate.py --check && $(MKDOCS) && $(BIN)/mypy) & rest=$$!; \
		$(PYTEST) --cov --cov-report=term; tests=$$?; wait $$rest && exit $$tests

check: $(READY)  ## format, lint, types and the fast tests
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	$(BIN)/mypy & types=$$!; $(PYTEST) -q -m "not slow and not realdata" -x; tests=$$?; wait $$types && exit $$tests

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## the pages made of --help, docstrings and results, and the site in build/site
	$(BIN)/python docs/generate.py
	$(MKDOCS)

bench: $(READY)  ## the benchmarks that two cores do in some minutes: table, JSON and one more line of the history
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) demo-output build/site

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/transformers-4.46 $(OLDEST)
	touch $@
