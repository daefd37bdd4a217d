# `make run` starts the server, `make test` checks everything, `make help` lists the rest.

# Not sh: with a shell of our own every recipe sees the PATH below.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(PATH):/usr/sbin:/sbin

# Every suite is a target. scripts/suites.py has their order, and which may run side by side.
SUITES := setup fmt scripts markdown perf-numbers dockerfile deny clippy doc release unit-build unit simulation formats pprof heap \
  manifests page syscalls gates clients load nginx replicas affinity senders alerts ladder-build ladder loom autoscaler \
  container-image container

TARGET := $(or $(CARGO_TARGET_DIR),target)
# What suites run besides the server. They are of the build of the tests: its dependencies are compiled once, and
# the release build does without them.
EXAMPLES := allocate spin simulate
# The suites that speak to the installed binary take its name from here.
WITH_BINARY = SIGMAD=$(TARGET)/release/sigmad
# Labelled series of public benchmarks; they are not part of the project.
DATA ?= ../shared/data
# How long `make simulate` looks for a seed that breaks a law.
SECONDS ?= 60
VERSION = $(shell sed -n '/^version = /{s/[^"]*"\(.*\)"/\1/p;q}' Cargo.toml)
REVISION = $(shell git rev-parse HEAD)
# podman and buildah understand the same arguments.
CONTAINERS ?= docker
IMAGE ?= sigmad:$(VERSION)

.PHONY: run demo binary fuzz test verify verify-long compiler examples bench simulate perf perf-quick gates-update eval docs prometheusrule manual image sender told help $(SUITES)

run: binary ## build and start the server on port 8080; FLAGS="--window 100" changes settings
	@$(TARGET)/release/sigmad $(FLAGS)

demo: binary ## start the server with a simulated fleet
	@$(TARGET)/release/sigmad demo $(FLAGS)

binary: ## build the server: one static binary, which the image and the suites use too
	cargo rustc --release --locked --package sigmad --bin sigmad -- -Ctarget-feature=+crt-static

test: compiler ## run every suite that needs no containers
	@scripts/suites.py test

verify: compiler ## run every suite; containers and CPU quotas must be allowed
	@scripts/suites.py verify

verify-long: setup ## exhaustive runs of some suites, with a record; PARTS="fuzz soak" selects parts
	@scripts/setup.sh long
	@scripts/verify_long.py $(PARTS)

setup: ## suite: install missing tools that the others need
	@scripts/setup.sh $(SETUP)

# The suite `setup` runs beside the first builds, which need a C++ compiler.
compiler:
	@command -v c++ >/dev/null && command -v python3 >/dev/null || scripts/setup.sh

fmt: ## suite: formatting
	cargo fmt --check --all
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path loom/Cargo.toml
	cargo fmt --check --all --manifest-path benches/ladder/Cargo.toml
	ruff format --check benches k8s load scripts tests

scripts: ## suite: shell, Python and YAML; imports between modules
	shellcheck scripts/*.sh k8s/*.sh k8s/base/*.sh load/*.sh .ci/run
	ruff check benches k8s load scripts tests
	yamllint --strict .yamllint.yml k8s compose docker-compose.yml
	tests/imports.py

markdown: ## suite: links, paths and make targets named in the documents exist
	tests/markdown.py

dockerfile: ## suite: Dockerfile
	hadolint Dockerfile

deny: ## suite: licences, sources and advisories of dependencies
	scripts/deny.sh

clippy: ## suite: lints of every crate, the ladder, fuzz and loom included
	# One folder, and one profile in all three manifests: a dependency is checked once, and its C compiled once.
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --all-targets --manifest-path benches/ladder/Cargo.toml --target-dir $(TARGET) -- -D warnings
	cargo clippy --locked --all-targets --manifest-path fuzz/Cargo.toml --target-dir $(TARGET) -- -D warnings
	RUSTFLAGS="--cfg loom" cargo clippy --locked --all-targets --manifest-path loom/Cargo.toml --target-dir $(TARGET)/loom -- -D warnings

doc: ## suite: the documentation builds, and its links resolve
	# Private items are documented, so links to them resolve.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --document-private-items

unit-build: ## suite: the tests of all crates compile
	cargo test --locked --workspace --no-run

unit: ## suite: unit tests, doc tests, and integration tests with the debug binary
	# Most tests wait, for timeouts and for each other's processes: more at once than there are cores.
	RUST_TEST_THREADS=4 cargo test --locked --workspace --no-fail-fast

release: binary ## suite: the release binary, and what gates counts
	cargo build --release --locked --package sigmad-gates --bin requests

examples:
	# With the whole workspace, or features would differ from those of unit-build.
	cargo build --locked --workspace $(addprefix --example ,$(EXAMPLES))

simulation: examples ## suite: replicas, Redis, network and clocks under simulated faults: the same seeds each time
	$(TARGET)/debug/examples/simulate --first 1 --count 40 --seconds 600

simulate: ## simulate for as long as told: SECONDS=3600, or SEED=7 to replay one seed
	cargo run --release --locked --example simulate -- $(if $(SEED),--seed $(SEED),--seconds $(SECONDS))

formats: release ## suite: answers and scrapes, read by independent parsers
	$(WITH_BINARY) tests/formats.py

pprof: release examples ## suite: profiles, read by go tool pprof; PPROF_CYCLES is the number of cancelled profiles
	$(WITH_BINARY) tests/pprof.py

page: release ## suite: the live page in Chromium
	$(WITH_BINARY) tests/page.py

manifests: release ## suite: Kubernetes manifests: schemas, and rules of the API server
	$(WITH_BINARY) tests/manifests.py

syscalls: release ## suite: system calls per request
	$(WITH_BINARY) scripts/syscalls.sh

gates: release ## suite: instructions per request may not grow; allocations are counted in suite unit
	benches/gates/instructions.py

gates-update: release ## update the instruction counts that gates compares with
	benches/gates/instructions.py --update

heap: release examples ## suite: memory profiles and stage times, compared with known truth
	$(WITH_BINARY) tests/heap.py

clients: release ## suite: curl, requests, ab, wrk, hey, Locust
	$(WITH_BINARY) tests/clients.py

load: release ## suite: the scripts in load/, each with its tool
	$(WITH_BINARY) tests/load.py

nginx: release ## suite: two replicas behind nginx; NGINX_SECONDS is the length of the load
	$(WITH_BINARY) tests/nginx.py

replicas: release ## suite: three replicas behind nginx with one Redis
	$(WITH_BINARY) tests/replicas.py

affinity: release ## suite: detector states follow their devices between replicas behind nginx
	$(WITH_BINARY) tests/affinity.py

senders: release ## suite: real senders of each format; a file of tests/senders with a first line of #! is one
	@shopt -s nullglob; for file in tests/senders/*.py; do \
	  read -r first <$$file; [[ $$first == '#!'* ]] || continue; \
	  echo "== $$file"; $(WITH_BINARY) python3 $$file; \
	done

sender: release ## one sender of verify-long, built of its Go modules: SENDER=telegraf, collector or remote
	$(WITH_BINARY) python3 tests/senders/$(SENDER)/check.py

alerts: release ## suite: alert rules, dashboard and notifications, with Prometheus and Alertmanager
	$(WITH_BINARY) tests/alerts.py
	$(WITH_BINARY) tests/notify.py

told: release ## part of verify-long: each incident is told once, through restarts of replicas, Redis and Alertmanager
	$(WITH_BINARY) tests/told.py

autoscaler: release ## suite of verify: the autoscaler's decisions under the demo's load; the demo's table
	$(WITH_BINARY) tests/autoscaler.py

container-image: release ## suite of verify: the container image, built without a registry
	tests/container.py --build

container: container-image ## suite of verify: the image, run without privileges
	tests/container.py

ladder-build: ## part of verify-long: the servers that PERF.md compares compile
	# In the folder of unit-build, and with its profile: most dependencies are the same.
	cargo build --locked --workspace --manifest-path benches/ladder/Cargo.toml --target-dir $(TARGET)

ladder: ladder-build ## part of verify-long: the servers that PERF.md compares do the same work
	LADDER=$(TARGET)/debug BASELINE_GO=$(TARGET)/go/baseline tests/ladder.py

loom: ## suite: every interleaving of the analytics thread's sleep and wake-up
	RUSTFLAGS="--cfg loom" cargo test --release --locked --manifest-path loom/Cargo.toml --target-dir $(TARGET)/loom

fuzz: ## part of verify-long: every fuzz target for 60 seconds, or FUZZ_SECONDS
	FUZZ_TARGET_DIR=$(abspath $(TARGET))/fuzz scripts/fuzz.sh $(or $(FUZZ_SECONDS),60)

bench: setup release ## criterion benches, then the whole server; see benches/README.md
	cargo build --release --locked --package sigmad-gates --bin floor
	cargo bench --locked --bench '*'
	$(WITH_BINARY) benches/headline.py --server sigmad --server may --server floor
	@for bench in curve store idle pages judging; do echo "== $$bench"; $(WITH_BINARY) benches/$$bench.py; done

perf: ## measure every figure of PERF.md: builds, then 40 minutes; PARTS="ladder curve" selects parts
	@scripts/setup.sh perf
	benches/perf.py $(addprefix --part ,$(PARTS))

perf-quick: ## the same in 6 minutes after the builds: one short round each
	@scripts/setup.sh perf
	benches/perf.py --quick $(addprefix --part ,$(PARTS))

perf-numbers: ## suite: every figure in PERF.md has a record
	tests/perf_numbers.py

docs: ## write the generated documents again: docs/METRICS.md, docs/SETTINGS.md
	UPDATE_DOCS=1 cargo test --locked --lib document_is_current

manual: ## write man pages and shell completions to target/manual
	cargo run --locked --example manual $(TARGET)/manual

prometheusrule: ## generate the PrometheusRule from k8s/monitoring/rules.yml
	sed -i '/^spec:/q' k8s/overlays/production/prometheusrule.yaml
	sed -n '/^groups:/,$${s/^./  &/;p}' k8s/monitoring/rules.yml >>k8s/overlays/production/prometheusrule.yaml

eval: release ## score the detectors and compare with docs/DETECTION.md; DATA holds the four sets
	$(WITH_BINARY) tests/tables.py --data $(DATA)

image: ## build the container image; CONTAINERS=podman or buildah without docker
	$(CONTAINERS) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) -t $(IMAGE) .

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
