.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing kvtide and its pinned dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

.PHONY: install
install: $(READY) ## Create the virtual environment and install kvtide into it

.PHONY: demo
demo: $(READY) ## Watch two cache nodes being sized for a workload (TRACE=FILE plays a real trace)
	@$(BIN)/kvtide demo $(if $(TRACE),--trace "$(TRACE)")

SHUFFLE ?= $(KVTIDE_TEST_SEED)

.PHONY: test
test: $(READY) ## Run the tests (SHUFFLE=SEED: in another order)
	@KVTIDE_TEST_SEED="$(SHUFFLE)" $(BIN)/pytest -q -n 2 --dist loadfile $(if $(SHUFFLE),--no-loadscope-reorder) $(ARGS)

.PHONY: test-clients
test-clients: $(READY) ## Run the clients of other languages (node, go, java, cargo; each is built once)
	@$(BIN)/pytest clients -q -n 2 --dist worksteal --timeout=600 $(ARGS)

.PHONY: e2e
e2e: $(READY) ## Run the end-to-end tests on KUBECONFIG's cluster, or on one of their own (15 minutes to build, once)
	@PYTHON=$(BIN)/python e2e/run $(ARGS)

.PHONY: engine
engine: ## Build the environment with a real vLLM on CPU and a small model (6.4 GB, once)
	@PYTHON=$(PYTHON) engine_tests/build

.PHONY: test-engine
test-engine: $(READY) ## Run the tests that need that engine
	@PYTHON=$(PYTHON) engine_tests/run $(ARGS)

.PHONY: validate-engine
validate-engine: $(READY) ## Hold the simulator against that engine (TEXTS=FILE of real texts; 45 minutes)
	@test -n "$(TEXTS)" || { echo "name a file of real texts: make validate-engine TEXTS=FILE [ARGS=...]" >&2; exit 2; }
	@PYTHON=$(PYTHON) engine_tests/build
	@$(BIN)/python -m engine_tests.validate "$(TEXTS)" $(ARGS)

.PHONY: check
check: $(READY) ## Format, lint, types, layers, generated CRDs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m kvtide_operator.api.crd --check

.PHONY: format
format: $(READY) ## Format the code and apply safe fixes
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: $(READY) ## Pin the newest allowed versions of all dependencies into requirements.lock
	@$(BIN)/python -m pip install --quiet uv
	@$(COMPILE) --upgrade pyproject.toml --group dev --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock pyproject.toml --output-file operator/requirements.lock
	@$(COMPILE) --constraint requirements.lock cachenode/requirements.in --output-file cachenode/requirements.lock
	@echo hatchling | $(COMPILE) --constraint requirements.lock - --output-file operator/build.lock

.PHONY: clean
clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache clients/rust/target .hypothesis .import_linter_cache

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 18
