# Development runs in .venv, which the first target that needs it makes from requirements-dev.lock.

PYTHON ?= python3
ARGS ?=
# What `make test` does without ARGS: a process per core, and who is through takes tests from the other.
IN_PARALLEL := --numprocesses auto --dist worksteal
# What is in Python in any case, below the engine and beside it.
READABLE_TESTS := $(patsubst %,tests/test_store_%.py,\
    agenda cursors datafile digests eviction ghosts index layout lock migrate records redo segments superblock tiling)
# Tests of what the core does; those that run over both implementations anyway are left out.
BOTH := $(filter-out $(READABLE_TESTS),$(wildcard tests/test_store_*.py tests/test_http_*.py)) \
    $(patsubst %,tests/test_%.py,conformance connection core crash linearizability rest)
SECONDS ?= 60
RUNS ?= 10000
CASES ?= 100000
PYTHON2 ?= python2.7

VENV := .venv
LOCK := requirements-dev.lock
# Not quiet: an installation takes half a minute, and says what it is at.
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# Stamps: what builds the package, what the server needs, and on top of it what development needs.
BUILD := $(VENV)/build.stamp
SERVER := $(VENV)/server.stamp
TOOLS := $(VENV)/tools.stamp
FUZZ := $(VENV)/fuzz.stamp
BENCH := $(VENV)/bench.stamp
# A copy of the package, whose core is built with sanitizers.
SANITIZED := .sanitized
SANITIZERS := -fsanitize=address,undefined
# Another, built by clang, which tells the fuzzer what was reached.
FUZZED := .fuzzed
# Not for the offset 0 to a null pointer, which Cython's own code has.
COVERED = $(SANITIZERS),fuzzer-no-link -fno-sanitize=pointer-overflow
# Without those that fork while they test, kill or step a process, or build: a sanitizer sees one process.
SANITIZED_TESTS := $(filter-out tests/test_core_portable.py,$(wildcard tests/test_core_*.py tests/test_http_*.py)) \
    $(patsubst %,tests/test_%.py,connection rest store_engine store_sizes store_store)
# Other servers in Python, apart: what they ask for is not what fastkv runs on.
RIVALS := .venv-bench/rivals.stamp
# For Python 2.7, and so not in there.
AUTOBAHN := .autobahn
# The clients from npm that the tests run; npm leaves this file there.
NODE := tests/node/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve core test readable check sanitize format lock fuzz fuzz-core compare damage autobahn bench-micro bench-bulk bench-memory bench-pauses bench-pubsub bench-websocket profile report bench-instructions bench image clean

help: ## list the targets
	@awk '/^[a-z-]+:.*## / { \
	    name = $$0; sub(/:.*/, "", name); sub(/^[^#]*## /, ""); \
	    line = sprintf("  make %-19s", name); \
	    for (i = 1; i <= NF; i++) { \
	        if (length(line) + 1 + length($$i) > 80) { print line; line = sprintf("%26s", "") } \
	        line = line " " $$i } \
	    print line }' $(MAKEFILE_LIST)

serve: core $(SERVER) ## start the server; ARGS="--port 8080" passes options on
	@$(VENV)/bin/fastkv serve --no-tune $(ARGS)

# It is setup.py that knows what has to be built, in half a second: nothing, mostly.
core: $(BUILD) ## build what has changed of the compiled core, if there is a C compiler
	@$(VENV)/bin/python setup.py -q build_ext --inplace

test: core $(TOOLS) $(NODE) ## run the tests, on all cores; ARGS="-k settings" picks some
	@$(VENV)/bin/python -m pytest $(or $(ARGS),$(IN_PARALLEL))

readable: core $(TOOLS) ## run the tests of store and HTTP in readable Python alone
	@FASTKV_PURE=1 $(VENV)/bin/python -m pytest $(or $(ARGS),$(IN_PARALLEL) -m "not readable" $(BOTH))

check: core $(TOOLS) ## format check, lint, strict types, then the tests: what CI runs
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@PATH="$(abspath $(VENV)/bin):$$PATH" cython-lint fastkv/core
	@$(VENV)/bin/mypy
	@CORE_REQUIRED=1 $(MAKE) --no-print-directory test

sanitize: $(TOOLS) ## run the tests of store and HTTP over a core built with ASan and UBSan
	@echo "Building the core with $(SANITIZERS) …"
	@CFLAGS="-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all $(SANITIZERS)" LDFLAGS="$(SANITIZERS)" \
	    $(VENV)/bin/python setup.py -q build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	@rm -f $(SANITIZED)/report.*
	@# The reports are files: what a test writes is captured, and lost with its process.
	@reports=log_path=$(abspath $(SANITIZED))/report; \
	    LD_PRELOAD="$$(cc -print-file-name=libasan.so)" PYTHONMALLOC=malloc PYTHONPATH="$(abspath $(SANITIZED)/lib)" \
	    ASAN_OPTIONS=detect_leaks=0:$$reports UBSAN_OPTIONS=print_stacktrace=1:$$reports CORE_REQUIRED=1 \
	    $(VENV)/bin/pytest $(or $(ARGS),$(IN_PARALLEL) -m "not readable" $(SANITIZED_TESTS)); code=$$?; \
	    cat $(SANITIZED)/report.* 2> /dev/null && exit 1; exit $$code

format: $(TOOLS) ## format the code, and mend what the linter can
	@$(VENV)/bin/ruff check --fix-only .
	@$(VENV)/bin/ruff format .

lock: ## pin the newest versions of everything in requirements-dev.lock
	$(check_python)
	@$(PYTHON) -m venv --clear $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[dev,perf]'
	@{ echo "# Everything that development uses, pinned by: make lock"; \
	   $(VENV)-lock/bin/python -m pip --disable-pip-version-check freeze --all --exclude pip --exclude-editable; } > $(LOCK).new
	@mv $(LOCK).new $(LOCK)
	@rm -rf $(VENV)-lock

fuzz: core $(FUZZ) ## look for inputs that break the parsers or a connection; SECONDS=60
	@PYTHONPATH=tests $(VENV)/bin/python -m fuzz $(SECONDS)

fuzz-core: $(FUZZ) ## the same for the compiled core, built by clang with ASan and UBSan; SECONDS=60
	@command -v clang > /dev/null || \
	    { echo "fastkv: there is no clang, which covers the core for the fuzzer; on Debian and Ubuntu: apt-get install clang" >&2; exit 1; }
	@echo "Building the core with $(SANITIZERS) …"
	@CC=clang LDSHARED="clang -shared" CFLAGS="-O1 -g -fno-sanitize-recover=all $(COVERED)" \
	    $(VENV)/bin/python setup.py -q build --build-base $(FUZZED) --build-lib $(FUZZED)/lib
	@LD_PRELOAD="$$($(VENV)/bin/python -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONSAFEPATH=1 PYTHONPATH="$(abspath $(FUZZED)/lib):tests" \
	    $(VENV)/bin/python -m fuzz core $(SECONDS)

compare: core $(TOOLS) ## compare the core's answers with the readable path's; CASES=100000
	@PYTHONPATH=tests $(VENV)/bin/python -m fuzz compare $(CASES)

damage: core $(TOOLS) ## damage arenas in files at random, and look for wrong values; RUNS=10000
	@PYTHONPATH=tests $(VENV)/bin/python -m damage $(RUNS)

autobahn: core $(TOOLS) ## run the Autobahn|Testsuite, where there is a Python 2.7; PYTHON2=python2.7
	@command -v $(PYTHON2) > /dev/null || \
	    { echo "fastkv: there is no $(PYTHON2), which the Autobahn|Testsuite needs: make autobahn PYTHON2=…" >&2; exit 1; }
	@test -d $(AUTOBAHN) || { $(PYTHON2) -m pip --quiet install --target $(AUTOBAHN) autobahntestsuite \
	    && touch $(AUTOBAHN)/zope/__init__.py; }
	@$(VENV)/bin/python -m perf.autobahn --python $(PYTHON2) --suite $(AUTOBAHN) --save
	@$(VENV)/bin/python -m perf.tables

bench-micro: core $(BENCH) ## measure the store, parsers and replies alone; ARGS="operations --only fastkv" picks some
	@$(VENV)/bin/python -m perf.micro $(ARGS)
	@$(VENV)/bin/python -m perf.tables

bench: core $(SERVER) $(RIVALS) ## measure a request beside other servers, in half an hour; ARGS="--quick" in two minutes
	@$(VENV)/bin/python -m perf.bench $(ARGS)

bench-instructions: core $(SERVER) ## count the instructions of requests; ARGS="--functions 'GET miss'", or --save
	@$(VENV)/bin/python -m perf.instructions $(ARGS)
	@$(VENV)/bin/python -m perf.tables

bench-bulk: core $(SERVER) ## measure commands of many keys, walks and large values, beside Redis; ARGS="--rounds 3"
	@$(VENV)/bin/python -m perf.bulk --save $(ARGS)
	@$(VENV)/bin/python -m perf.tables

bench-memory: core $(SERVER) ## count what a budget holds, beside memcached and Redis; ARGS="--memory 64"
	@$(VENV)/bin/python -m perf.memory --save $(ARGS)
	@$(VENV)/bin/python -m perf.tables

bench-pauses: core $(SERVER) ## find the longest steps of a worker's event loop, and what they are for; ARGS="--only expiry"
	@$(VENV)/bin/python -m perf.pauses --save $(ARGS)
	@$(VENV)/bin/python -m perf.tables

bench-pubsub: core $(SERVER) ## tell 10,000 subscribers, beside Redis; ARGS="--subscribers 1000"
	@$(VENV)/bin/python -m perf.pubsub --save $(ARGS)
	@$(VENV)/bin/python -m perf.tables

bench-websocket: core $(SERVER) ## measure a command over a WebSocket, beside HTTP and another server; ARGS="--rounds 3"
	@$(VENV)/bin/python -m perf.websocket --save $(ARGS)
	@$(VENV)/bin/python -m perf.tables

profile: core $(TOOLS) ## record a flame graph of a worker under load; ARGS="--workload put --out put.svg"
	@$(VENV)/bin/python -m perf.profile $(ARGS)

report: $(SERVER) ## bring the tables and charts of the documents up to date with perf/results
	@$(VENV)/bin/python -m perf.tables

image: ## build the container image
	@docker build --tag ultrafastkv .

clean: ## remove the virtual environment, and what was built or left behind
	@rm -rf $(VENV) $(VENV)-lock $(VENV)-bench $(AUTOBAHN) $(SANITIZED) $(FUZZED) tests/node/node_modules build dist
	@rm -rf fastkv/core/*.so ultrafastkv.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Says what is missing before anything half-works.
define check_python
@command -v $(PYTHON) > /dev/null || \
	    { echo "fastkv: there is no $(PYTHON); install Python 3.11 or later, or say which: make PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "fastkv: $$($(PYTHON) -V) is too old; Python 3.11 or later is needed, for example: make PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	    { echo "fastkv: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
endef

# Without build isolation the build back end is the pinned one too.
$(BUILD): pyproject.toml $(LOCK)
	$(check_python)
	@echo "1 of 3: making the virtual environment $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@echo "2 of 3: installing what builds the package, with the versions in $(LOCK) …"
	@$(PIP) install --constraint $(LOCK) cython setuptools
	@touch $@

$(SERVER): $(BUILD) | core
	@echo "3 of 3: installing the server and what it needs …"
	@$(PIP) install --constraint $(LOCK) --no-build-isolation --editable .
	@echo "Installed: $(VENV)/bin/fastkv."
	@touch $@

$(TOOLS): $(SERVER)
	@echo "Installing the development tools, with the versions in $(LOCK) …"
	@$(PIP) install --requirement $(LOCK)
	@touch $@

$(FUZZ): $(TOOLS)
	@$(PIP) install --constraint $(LOCK) --no-build-isolation --editable '.[fuzz]'
	@touch $@

# Without npm, or a registry, the tests that need these clients are skipped, and say so.
$(NODE): tests/node/package.json tests/node/package-lock.json
	@npm ci --prefix tests/node --no-audit --no-fund --loglevel=error > /dev/null || \
	    echo "The clients of tests/node could not be installed; their tests are skipped." >&2

# One by one: what does not install here is left out, and the benchmark says so.
$(BENCH): $(SERVER) perf/requirements.txt
	@grep -v '^#' perf/requirements.txt | while read -r rival; do \
	    $(PIP) install "$$rival" || echo "$$rival does not install here." >&2; done
	@touch $@

$(RIVALS): perf/bench/requirements.txt
	$(check_python)
	@echo "Making $(VENV)-bench …"
	@$(PYTHON) -m venv $(VENV)-bench
	@grep -v '^#' perf/bench/requirements.txt | while read -r rival; do \
	    $(VENV)-bench/bin/python -m pip --disable-pip-version-check --quiet install "$$rival" || \
	    echo "$$rival does not install here." >&2; done
	@touch $@
