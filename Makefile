# Every step that CI takes is a target that a person can run. `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := .venv/bin
JOBS ?= 2
PROFILE ?= dev
COMPOSE = docker compose --env-file $(if $(filter dev,$(PROFILE)),.env,profiles/$(PROFILE)/compose.env) --profile $(PROFILE)
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadgroup --durations=15 --durations-min=20
# A hundred processes import the same modules; none of them should compile them again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## Set everything up and run the bus, embedded, without servers
	@scripts/setup run
	@exec $(BIN)/arqonbus serve

.PHONY: test
test: setup ## Set everything up and pass the whole suite
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target servers lint docs
	$(PYTEST) tests

.PHONY: test-fast
test-fast: setup servers ## The tests that need no Docker engine
	$(PYTEST) -m "not docker" tests

.PHONY: test-rollout
test-rollout: setup ## Roll out to three hosts, from nothing, and lead the deployment through its life (part of test)
	@scripts/setup-ansible
	$(BIN)/pytest tests/infra

.PHONY: check
check: setup ## What a change has to pass before anything else: lint, and the unit tests
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint check-units

.PHONY: check-units
check-units: setup
	$(BIN)/pytest -q -n $(JOBS) -m "not servers" tests/unit tests/runbooks tests/contract/config tests/contract/protocol

.PHONY: lint
lint: lint-python lint-ansible lint-shell ## Lint, types, architecture, generated files, dependencies, playbooks, shell scripts

.PHONY: lint-python
lint-python: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate --check
	$(BIN)/python scripts/sbom --audit
	$(BIN)/python scripts/lint-language

# Half a minute of a processor, so only what changed since it passed is looked at again.
.PHONY: lint-ansible
lint-ansible: setup
	@scripts/setup-ansible lint
	@scripts/lint-ansible

.PHONY: lint-shell
lint-shell: setup
	@git ls-files scripts tests/testbed images .ci | xargs grep -lE '^#!.*(bash|sh)$$' | xargs $(BIN)/shellcheck -x -P .

.PHONY: setup
setup: ## Make .venv with the locked dependencies
	@scripts/setup dev

.PHONY: servers
servers: ## Install the servers that tests start by themselves (needs root or sudo)
	@scripts/install-test-servers

.PHONY: release
release: setup ## Build dist/arqonbus-<version>.tar.gz, all that a host needs beside its packages
	@scripts/build-release

.PHONY: up
up: ## Build and start the bus with Valkey and Postgres in containers (PROFILE=dev, staging or prod)
	$(COMPOSE) up --detach --build --wait

.PHONY: down
down: ## Stop the containers; data stays (PROFILE as for up)
	$(COMPOSE) down

.PHONY: bench
bench: setup ## Compare with other servers and write benchmarks/RESULTS.md (about 40 minutes)
	@scripts/install-test-servers nats-server mosquitto valkey-server
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bench.lock
	cd benchmarks/peers && npm ci --silent --no-audit --no-fund
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.report

.PHONY: faults
faults: setup servers ## Break buses and engines under load for FAULTS_MINUTES (default 15), write benchmarks/FAULTS.md
	$(BIN)/python -m tests.faults --minutes $${FAULTS_MINUTES:-15} $${FAULTS_SEED:+--seed $$FAULTS_SEED}

.PHONY: soak
soak: setup ## Break network and bus under the Python SDK for SOAK_MINUTES (default 40)
	$(BIN)/python -m tests.sdk.soak --minutes $${SOAK_MINUTES:-40} $${SOAK_SEED:+--seed $$SOAK_SEED}

.PHONY: fuzz
fuzz: setup ## Fuzz every parser for FUZZ_SECONDS each (default 60)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/fuzz.lock
	@for target in protobuf_frames json_frames session_frames profile_loader jwt policy schema; do \
	  mkdir -p .cache/fuzz/$$target; \
	  $(BIN)/python -m tests.fuzz.$$target .cache/fuzz/$$target -max_total_time=$${FUZZ_SECONDS:-60} -artifact_prefix=.cache/fuzz/; \
	done

.PHONY: docs
docs: setup ## Build the documents as a static site with search in build/site; fails for a broken link
	@scripts/build-docs

.PHONY: generate
generate: setup ## Write the generated files again
	$(BIN)/python scripts/generate

.PHONY: lock
lock: setup ## Lock the newest dependencies that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml -o requirements/run.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml --group dev -o requirements/dev.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group build -o requirements/build.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group bench -o requirements/bench.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group fuzz -o requirements/fuzz.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group docs -o requirements/docs.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group ansible -o requirements/ansible.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --no-deps --group ansible-collections -o requirements/ansible-collections.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 --group ansible-lint -o requirements/ansible-lint.lock

.PHONY: clean
clean: ## Remove what was built; keeps .state
	rm -rf .venv .venv-ansible dist build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
