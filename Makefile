# agent-service. `make` alone lists what there is.
# Needs make and Python 3.11 or newer; `make check` needs npm as well, for buf.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools-ready
BUF := node_modules/.bin/buf
UV_VERSION := 0.13.9
LOCK = .cache/uv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' --quiet
ARGS =
MODEL = auto

# The first Python on the path that is new enough and can make a virtual environment. Looked for only when it is needed.
FITS := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON = $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Use it

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo 'Flags go into ARGS: make run ARGS="--listen 127.0.0.1:6000", make test ARGS="-k watch -x".'

.PHONY: run
run: setup ## Start the service on 127.0.0.1:50051; MODEL=auto|claude|offline
	@$(BIN)/agent-service serve --model $(MODEL) $(ARGS)

.PHONY: demo
demo: setup ## Show one whole run with a tool, offline: server up, live output, server down
	@PATH="$(CURDIR)/$(BIN):$$PATH" examples/demo.sh

.PHONY: setup
setup: $(READY) ## Make .venv from requirements.lock: what the service needs

$(READY): requirements.lock pyproject.toml tools/setup_venv.py
	@$(need_python)
	@$(PYTHON) tools/setup_venv.py

define need_python
$(if $(strip $(PYTHON)),,$(error No Python 3.11 or newer with the venv module was found. Install one (on Debian also its \
	-venv package), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11))
endef

##@ Change it

.PHONY: tools
tools: $(TOOLS) ## Add to .venv what tests and checks need, from requirements-dev.lock

$(TOOLS): requirements-dev.lock requirements.lock pyproject.toml tools/setup_venv.py
	@$(need_python)
	@$(PYTHON) tools/setup_venv.py --tools

.PHONY: test
test: tools ## Run all tests, offline
	@$(BIN)/pytest $(ARGS)

.PHONY: check
check: lint types imports contract proto-check limits-check ## Run every check CI runs, except the tests

.PHONY: lint
lint: tools ## Check style and format (ruff)
	$(BIN)/ruff check --output-format=concise .
	$(BIN)/ruff format --check .

.PHONY: types
types: tools ## Check types (mypy, strict)
	$(BIN)/mypy

.PHONY: imports
imports: tools ## Check which way imports go (import-linter)
	$(BIN)/lint-imports --no-logo

.PHONY: contract
contract: $(BUF) ## Check the contract: style, comments, nothing broken (buf)
	@tools/contract_lint.sh $(BUF)
	$(BUF) format --diff --exit-code
	@tools/contract_unbroken.sh $(BUF)

.PHONY: proto-check
proto-check: tools ## Check that the stubs are those of the contract
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && PATH="$(CURDIR)/$(BIN):$$PATH" tools/protoc.sh "$$fresh" \
		&& diff -r -x __init__.py -x __pycache__ -x py.typed "$$fresh/agentpb" generated/agentpb \
		&& echo 'The stubs are those of the contract.' \
		|| { echo 'generated/ is not what proto/agent.proto says: run `make proto`.' >&2; exit 1; }

.PHONY: limits-check
limits-check: tools ## Check that docs/limits.md is as the limits are
	@$(BIN)/python tools/limits.py --check

.PHONY: limits
limits: tools ## Write docs/limits.md
	@$(BIN)/python tools/limits.py

.PHONY: format
format: tools ## Format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: proto
proto: tools ## Write generated/ from proto/agent.proto
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/protoc.sh generated

.PHONY: bench
bench: tools ## Measure
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: chaos
chaos: tools ## Break the service and look: ARGS="crash --rounds 20", ARGS="attack --rounds SECONDS"
	@$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: lock
lock: .cache/uv/bin/uv ## Pin the dependencies of pyproject.toml anew; ARGS=--upgrade for newer versions
	@$(LOCK) --extra server --extra build $(ARGS) -o requirements.lock
	@$(LOCK) --extra server --extra build --extra dev --constraint requirements.lock $(ARGS) -o requirements-dev.lock
	@echo 'requirements.lock and requirements-dev.lock are written; `make tools` installs them.'

.PHONY: clean
clean: ## Remove what was made: .venv, node_modules, caches
	rm -rf $(VENV) node_modules .cache dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The tools that are not the project's own dependencies.

$(BUF): package.json package-lock.json
	@command -v npm >/dev/null || { echo 'buf, which checks the contract, comes from npm, and npm is not here: install Node.js.' >&2; exit 1; }
	@npm ci --no-audit --no-fund --ignore-scripts --loglevel=error </dev/null
	@touch $@

.cache/uv/bin/uv: Makefile
	@$(PYTHON) -m venv --clear .cache/uv
	@.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@
