# `make run` and the development targets share .venv: requirements/dev.txt contains all of server.txt at the same versions, so
# either may be installed first.

BIN := .venv/bin
INSTALL_EDITABLE := python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
USERS ?= 100000
export PYTHON

# Tests start many Python processes, which start faster from compiled files.
unexport PYTHONDONTWRITEBYTECODE

# Several test files run at once: most tests wait for processes and stores, not for the CPU.
PARALLEL ?= -n 3 --dist loadfile
PARALLEL_LONG ?= -n 2 --dist loadfile
# Fault tests count what happens under a certain load, and the files of foreign tests build the same clients.
ONE_AT_A_TIME := tests/faults tests/foreign
EDGE_TESTS ?= tests/unit tests/contract

.PHONY: help run test test-all test-long coverage test-typescript test-oldest test-newest faults mutations bench check-typescript demo monitoring lint format types generate api check-generated breaking lock build version clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.server ## set up on first use, then serve on 127.0.0.1:50051; more settings: make run ARGS="--listen …"
	@exec $(BIN)/userservice serve $(ARGS)

test: .venv/.dev ## run the tests; to run some of them: make test ARGS="tests/contract -k stream"
	@tools/check-tools.sh
	@[ -n "$(ARGS)" ] || tools/test-typescript.sh test
	$(BIN)/pytest -m "not long" $(PARALLEL) $(ARGS)

test-all: test test-long ## run all tests (at most 30 minutes)

test-long: .venv/.dev .venv-servers/.done .venv-deploy/.done ## run only the tests that make test leaves out: long tests, and those that need toolchains of other languages
	@tools/check-tools.sh
	@[ -n "$(ARGS)" ] || tools/test-typescript.sh run test:long
	[ -n "$(ARGS)" ] || $(BIN)/pytest -m long $(PARALLEL_LONG) $(filter-out $(addsuffix /,$(ONE_AT_A_TIME)),$(wildcard tests/[a-z]*/ tests/test_*.py))
	$(BIN)/pytest -m long $(or $(ARGS),$(ONE_AT_A_TIME))

# Only the tests that do not wait: instrumented servers are slow. Service, hazard and fault tests cover more code.
coverage: .venv-newest/.done ## run test-newest and measure the code that it runs, also in servers; fails below the minimum in pyproject.toml
	@rm -f .coverage .coverage.*
	.venv-newest/bin/coverage run -m pytest -q -m "not long" $(PARALLEL) $(EDGE_TESTS)
	.venv-newest/bin/coverage combine --quiet
	.venv-newest/bin/coverage report

faults: .venv/.dev ## run the fault tests at full size, within 30 minutes, and print their figures; FAULTS_SEED=… repeats a run
	FAULTS=full $(BIN)/pytest tests/faults -v --timeout 300 --session-timeout 1800 $(ARGS)

mutations: .venv/.dev ## disable each safeguard in a copy of the code and check that its test fails; some: make mutations ARGS="ping-mark"
	@cd tests && ../$(BIN)/python -m mutations $(ARGS)

test-typescript: .venv/.dev ## run only the tests of the TypeScript client
	@tools/test-typescript.sh test

check-typescript: .venv/.dev ## check types, style and generated code of the TypeScript client
	@tools/test-typescript.sh run check

bench: .venv/.bench ## measure the service, Python and Go servers, and the limits of Redis and grpcio; BENCH=scale for 10 million users
	@tools/test-typescript.sh run --silent build
	@$(BIN)/python -m benchmarks $(ARGS)

test-oldest: .venv-oldest/.done ## run unit and contract tests with the oldest dependencies that pyproject.toml allows
	.venv-oldest/bin/pytest -m "not long" $(PARALLEL) $(EDGE_TESTS) $(ARGS)

test-newest: .venv-newest/.done ## run unit and contract tests on the newest installed Python
	.venv-newest/bin/pytest -m "not long" $(PARALLEL) $(EDGE_TESTS) $(ARGS)

demo: .venv/.dev ## start a service, load 100 000 users, stream them back and check each; fewer: make demo USERS=1000
	@$(BIN)/python -m demo --users $(USERS) $(ARGS)

monitoring: .venv/.bench ## run a service with load and Debian's Prometheus with the alert rules, and draw the dashboard into dashboard.png
	@exec $(BIN)/python -m demo.monitoring --stay $(ARGS)

lint: .venv/.dev ## check style and protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/buf lint protos
	$(BIN)/buf format protos --diff --exit-code

format: .venv/.dev ## format Python and protos
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format protos --write

types: .venv/.dev ## check types in strict mode: packages, tests, tools, benchmarks, examples
	$(BIN)/mypy

generate: .venv-codegen/.done ## generate stubs, error classes, README's table of errors, the blocking managers, the Python and gRPC reference, docs/metrics.md, the dashboard
	tools/generate.sh
	@tools/test-typescript.sh run --silent generate

api: .venv-codegen/.done ## generate the API reference in docs/api from docstrings, comments and protos
	.venv-codegen/bin/python tools/generate_python_reference.py
	.venv-codegen/bin/python tools/generate_proto_reference.py
	@tools/test-typescript.sh run --silent reference

check-generated: .venv-codegen/.done ## check that the committed generated files match their sources
	@tools/check-generated.sh

breaking: .venv/.dev ## check that the protos are compatible with all earlier versions
	@tools/breaking.sh

lock: .venv/.dev ## pin the newest versions in the ranges of pyproject.toml
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/lock.sh

build: .venv/.dev ## build the wheel in dist/ and check it
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@tools/check-wheel.sh dist/*.whl

version: ## set the version of both packages: make version VERSION=1.2.3
	@tools/set-version.sh "$(VERSION)"

clean: ## remove environments, caches and builds, but no data
	rm -rf .venv .venv-* dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.server: requirements/server.txt pyproject.toml
	@echo "setting up .venv (once, and when its requirements change)"
	@tools/venv.sh .venv requirements/server.txt
	@$(BIN)/$(INSTALL_EDITABLE)
	@touch $@

.venv/.dev: requirements/server.txt requirements/dev.txt pyproject.toml
	@echo "setting up .venv for development (once, and when its requirements change)"
	@tools/venv.sh .venv requirements/dev.txt
	@$(BIN)/$(INSTALL_EDITABLE)
	@touch .venv/.server $@

.venv-oldest/.done: .venv/.dev
	@echo "setting up .venv-oldest (once, and when the requirements change)"
	@rm -rf .venv-oldest
	@$(BIN)/uv venv --quiet --python $(BIN)/python .venv-oldest
	@$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-oldest --resolution lowest-direct --editable '.[server,cli,otel,parquet]' \
		$$(grep -oE '^(hypothesis|pytest|pytest-asyncio|pytest-timeout|pytest-xdist)==[^ ]+' requirements/dev.txt)
	@touch $@

.venv-newest/.done: .venv/.dev
	@echo "setting up .venv-newest (once, and when the requirements change)"
	@rm -rf .venv-newest
	@python=$$(tools/newest-python.sh) && $(BIN)/uv venv --quiet --python "$$python" .venv-newest
	@$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-newest --require-hashes --requirement requirements/dev.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-newest --no-deps --editable .
	@touch $@

.venv-servers/.done: requirements/servers.txt pyproject.toml
	@echo "setting up .venv-servers (once, and when its requirements change)"
	@tools/venv.sh .venv-servers requirements/servers.txt
	@.venv-servers/bin/$(INSTALL_EDITABLE)
	@touch $@

.venv-deploy/.done: requirements/deploy.txt
	@echo "setting up .venv-deploy (once, and when its requirements change)"
	@tools/venv.sh .venv-deploy requirements/deploy.txt
	@touch $@

.venv/.bench: .venv/.dev requirements/bench.txt
	@tools/venv.sh .venv requirements/bench.txt
	@touch $@

.venv-codegen/.done: requirements/codegen.txt
	@echo "setting up .venv-codegen (once, and when its requirements change)"
	@tools/venv.sh .venv-codegen requirements/codegen.txt
	@touch $@
