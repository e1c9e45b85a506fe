# Everything a newcomer needs: `make demo` and `make test` on a fresh Debian or Ubuntu with Python 3.11+.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Worker processes for the tests; each holds torch and a model of a few MB.
JOBS ?= 2
# Images of Python often set it. Without bytecode each of many processes compiles torch and transformers again: 10 seconds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types package docs install bench clean

# One install for demo and tests, again only when what it depends on changed. It takes about two minutes and 6 GB:
# libtorchtrt links CUDA's libraries, so the CPU build of torch does not do, GPU or not. Python compiles the modules that are
# imported: compiling all of them in advance takes as long as the rest of the install.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "needs the venv module: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[compile,rtx,dev]'
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(MAKE) --jobs 2 lint types docs
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package as it is installed, where `lowering` and `plugins` are parts of it, for mypy and the Python reference.
package:
	rm -rf build/package && mkdir -p build/package
	cp -r tt_edge build/package/tt_edge
	cp -r lowering build/package/tt_edge/lowering && cp -r plugins build/package/tt_edge/plugins

types: install package
	cd build/package && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy_cache -p tt_edge

docs: install package
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: install
	$(BIN)/python benchmarks/compile_cost.py

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache *.egg-info demo.ttedge
