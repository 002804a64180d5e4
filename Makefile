# The project's own scripts: what CI runs is what you run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv installs in seconds what takes pip a minute; where it cannot reach the index, pip does the same work.
install = VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --system-certs --compile-bytecode --require-hashes -r $(1) || $(BIN)/python -m pip install --quiet --require-hashes -r $(1)


.PHONY: run setup test check corpus notebooks notebooks-run bench soak lock clean

run: setup  ## set up, train the first router if there is none, serve it
	@test -f models/champion || $(BIN)/pointsman train data/tickets/*.jsonl
	$(BIN)/pointsman serve

setup: $(VENV)/.done  ## the virtual environment, from the lock file

$(VENV)/.done: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -o '^uv==[^ ]*' requirements.lock)
	$(call install,requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Two processes for the two cores that CI has, so one thread of linear algebra in each: more would only wait for each other. Many tests
# start the program, which takes twice as long where Python may not keep what it compiled.
test: export OPENBLAS_NUM_THREADS = 1
test: export PYTHONDONTWRITEBYTECODE =
test: check  ## everything that must pass: what CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

corpus: setup  ## is the shipped corpus fit to learn from?
	$(BIN)/python -m training.corpus

notebooks: setup  ## the analysts' notebooks, in Jupyter
	$(call install,notebooks/requirements.lock)
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_know_your_history.ipynb

# Two at a time, as CI has two cores. The simulated year is made once; what the notebooks make stays in notebooks/run.
notebooks-run: export OPENBLAS_NUM_THREADS = 1
notebooks-run: setup  ## all notebooks from top to bottom, unattended, on the shipped tickets
	rm -rf notebooks/run
	mkdir -p notebooks/run
	$(BIN)/pointsman demo --database sqlite:///notebooks/run/demo.db --tickets 6000 --until 2026-01-01
	ls -r notebooks/*.ipynb | xargs -n 1 basename | xargs -P 2 -I NOTEBOOK $(BIN)/papermill notebooks/NOTEBOOK notebooks/run/NOTEBOOK \
		-p OUT $(CURDIR)/notebooks/run/made -p DATABASE sqlite:///$(CURDIR)/notebooks/run/demo.db --no-progress-bar

bench: setup  ## Pointsman beside its peers, in the same run: tables, a picture, JSON
	$(call install,benchmarks/requirements.lock)
	$(BIN)/python benchmarks/bench.py

soak: setup  ## half an hour of good, bad, slow, huge and aborted requests while models change
	$(BIN)/python benchmarks/soak.py --minutes 30

check: setup  ## formatting, lint, types and the rules of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup  ## newer versions of what the project stands on
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --all-extras --group dev --upgrade --quiet pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --group bench --constraints requirements.lock --upgrade --quiet -o benchmarks/requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --constraints requirements.lock --upgrade --quiet notebooks/requirements.in -o notebooks/requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
