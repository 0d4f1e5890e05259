# Two commands do everything: `make demo` and `make test`. Both make .venv first, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
QUIET := $(if $(wildcard .venv/bin/python),-q)  # pip tells its progress the first time, and little later on
export OMP_NUM_THREADS ?= 2

.PHONY: demo test check docs notebooks bench wheel clean help

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(READY)  ## run all three parts and write demo/report/index.html
	$(BIN)/bayes-persona demo

# Two workers of one thread each: much of the time goes to compiling small programs, which threads do not share.
test: $(READY)  ## all tests, docstring examples and notebooks included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
	$(BIN)/python -m pytest --override-ini addopts= --nbmake notebooks

check: $(READY)  ## lint, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(READY)  ## build the site into site/; fails on any warning
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(READY)  ## run the notebooks and write their copies for the site; NAME=03_personalize for one
	$(BIN)/python docs/render.py $(NAME)

bench: $(READY)  ## measure again and rewrite benchmarks/RESULTS.md; DATA=folder of nets and images for NPTL's, MODELS=one for 9 GB
	$(BIN)/python -m benchmarks.foundation
	$(BIN)/python -m benchmarks.world
	$(BIN)/python -m benchmarks.npl
	$(BIN)/python -m benchmarks.rl.run
	$(BIN)/python -m benchmarks.perfusion
	$(BIN)/python -m benchmarks.celeb
	$(BIN)/python -m benchmarks.moa
	$(BIN)/python -m benchmarks.lipe
	$(BIN)/python -m benchmarks.dual
	$(BIN)/python -m benchmarks.persona
	$(BIN)/python -m benchmarks.tuning
	$(BIN)/python -m benchmarks.gating
	$(BIN)/python -m benchmarks.corruption
	$(BIN)/python -m benchmarks.transfer.conditions
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.peers
	$(if $(MODELS),$(BIN)/python -m benchmarks.stable_diffusion --folder $(MODELS))
	$(if $(DATA),$(BIN)/python -m benchmarks.nptl --data $(DATA))
	$(if $(DATA),$(BIN)/python -m benchmarks.transfer.run --data $(DATA))

wheel: $(READY)  ## install wheel and sdist into bare environments: no extras, and one (EXTRA=name, or the day's)
	$(BIN)/python tests/wheel.py $(if $(EXTRA),--extra $(EXTRA))

# The constraints pin the versions that work together; torch is named first and exactly, which is what picks a CPU build.
$(READY): pyproject.toml constraints.txt references.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "Setting up .venv with $(PYTHON): about 2 GB and two to five minutes the first time, seconds after that."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check $(QUIET) -c constraints.txt torch -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check $(QUIET) --no-deps -r references.txt
	@touch $@

clean:  ## remove the environment and what was built
	rm -rf .venv build dist demo site
