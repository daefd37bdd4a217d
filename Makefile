# `make run` starts the server, `make test` checks everything, `make help` lists the rest.

# Not sh: with a shell of our own every recipe sees the PATH below.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(PATH):/usr/sbin:/sbin

# What fails soonest comes first, as far as the builds allow: debug, release, the small ones.
SUITES := fmt scripts markdown perf-numbers dockerfile deny clippy doc unit release formats pprof heap manifests page syscalls gates clients load nginx replicas alerts ladder loom fuzz
# What needs containers and CPU quotas, and so a machine that allows them.
VERIFY_SUITES := autoscaler container

TARGET := $(or $(CARGO_TARGET_DIR),target)
# The suites that speak to the installed binary take its name from here.
WITH_BINARY = SIGMAD=$(TARGET)/release/sigmad
# Labelled series of public benchmarks; they are not part of the project.
DATA ?= ../shared/data
VERSION = $(shell sed -n '/^version = /{s/[^"]*"\(.*\)"/\1/p;q}' Cargo.toml)
REVISION = $(shell git rev-parse HEAD)
# podman and buildah understand the same arguments.
CONTAINERS ?= docker
IMAGE ?= sigmad:$(VERSION)

.PHONY: run demo test verify setup bench perf perf-quick gates-update eval docs prometheusrule image help $(SUITES) $(VERIFY_SUITES)

run: ## build and start the server on port 8080; FLAGS="--window 100" turns settings
	cargo run --release --locked -- $(FLAGS)

demo: ## the same, with a fleet that does not exist, to look at
	cargo run --release --locked -- demo $(FLAGS)

# $(call in_turn,suites)
define in_turn
	@for suite in $(1); do \
	  echo "== $$suite"; start=$$SECONDS; \
	  $(MAKE) $$suite || { echo "== $$suite: FAILED after $$((SECONDS - start)) s"; exit 1; }; \
	  echo "== $$suite: passed in $$((SECONDS - start)) s"; \
	done; \
	echo "== all suites passed: $(1)"
endef

test: setup ## check everything: every suite below
	$(call in_turn,$(SUITES))

verify: test ## the same, and the suites that need containers and CPU quotas
	@scripts/setup.sh containers
	$(call in_turn,$(VERIFY_SUITES))

setup: ## install what the suites need and this machine lacks
	@scripts/setup.sh

fmt: ## suite: formatting
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path loom/Cargo.toml
	cargo fmt --check --all --manifest-path benches/ladder/Cargo.toml
	ruff format --check benches k8s load tests

scripts: ## suite: shell, Python and YAML
	shellcheck scripts/*.sh k8s/*.sh load/*.sh .ci/run
	ruff check benches k8s load tests
	yamllint --strict .yamllint.yml k8s compose docker-compose.yml

markdown: ## suite: links, paths and make targets named in the documents exist
	tests/markdown.py

dockerfile: ## suite: Dockerfile
	hadolint Dockerfile

deny: ## suite: licences, sources and advisories of the dependencies
	scripts/deny.sh

clippy: ## suite: lints
	cargo clippy --locked --all-targets -- -D warnings

doc: ## suite: the documentation builds, and its links lead somewhere
	# Private items are documented, so links to them lead somewhere.
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --no-deps --document-private-items

unit: ## suite: unit tests, and the debug binary spoken to through real sockets
	cargo test --locked --no-fail-fast

release: ## suite: the binary as it is installed, for the suites below
	cargo build --release --locked --bins --examples

formats: release ## suite: answers and scrapes read by other people's parsers
	$(WITH_BINARY) tests/formats.py

pprof: release ## suite: profiles read by go tool pprof; PPROF_CYCLES=1000 for more that are given up
	$(WITH_BINARY) tests/pprof.py

page: release ## suite: the live page in a real browser
	$(WITH_BINARY) tests/page.py

manifests: release ## suite: Kubernetes manifests: schemas, and what only an API server would refuse
	$(WITH_BINARY) tests/manifests.py

syscalls: release ## suite: system calls per request
	$(WITH_BINARY) scripts/syscalls.sh

gates: release ## suite: what may not grow, without a clock: allocations per sample, instructions per request
	cargo test --locked --test 'allocations_*'
	benches/gates/instructions.py

gates-update: release ## count the instructions anew that gates compares with
	benches/gates/instructions.py --update

heap: release ## suite: memory profiles and the stage budget, held against what is known
	$(WITH_BINARY) tests/heap.py

clients: release ## suite: curl, requests, ab, wrk, hey, Locust
	$(WITH_BINARY) tests/clients.py

load: release ## suite: the scripts in load/, with the tools they are for
	$(WITH_BINARY) tests/load.py

nginx: release ## suite: behind nginx; NGINX_SECONDS=60 for longer than 10 s
	$(WITH_BINARY) tests/nginx.py

replicas: release ## suite: three replicas behind nginx, one Redis
	$(WITH_BINARY) tests/replicas.py

alerts: release ## suite: alert rules and dashboard with the real Prometheus and Alertmanager
	$(WITH_BINARY) tests/alerts.py

autoscaler: release ## suite of verify: CPU under a quota, and what the autoscaler makes of it; the demo's table
	$(WITH_BINARY) tests/autoscaler.py

container: ## suite of verify: the container image, built without a registry and run without rights
	tests/container.py

ladder: ## suite: the servers that PERF.md compares do the work they are measured by
	cargo build --locked --workspace --manifest-path benches/ladder/Cargo.toml --target-dir $(TARGET)/ladder
	LADDER=$(TARGET)/ladder/debug BASELINE_GO=$(TARGET)/go/baseline tests/ladder.py

loom: ## suite: every order in which the analytics thread can fall asleep and be woken
	RUSTFLAGS="--cfg loom" cargo test --release --locked --manifest-path loom/Cargo.toml --target-dir $(TARGET)/loom

fuzz: ## suite: every fuzz target for 15 seconds
	scripts/fuzz.sh

bench: setup release ## criterion benches, then the whole server; see benches/README.md
	cargo bench --locked --bench '*'
	@for bench in server store openloop idle pages judging; do echo "== $$bench"; $(WITH_BINARY) benches/$$bench.py; done

perf: ## everything PERF.md rests on, on this machine: builds, then 25 minutes; PARTS="ladder curve" for some of it
	@scripts/setup.sh perf
	benches/perf.py $(addprefix --part ,$(PARTS))

perf-quick: ## the same in 3 minutes once it is built: one short round of each
	@scripts/setup.sh perf
	benches/perf.py --quick $(addprefix --part ,$(PARTS))

perf-numbers: ## suite: every figure in PERF.md is in a record
	tests/perf_numbers.py

docs: ## write the generated documents once more: docs/METRICS.md
	UPDATE_DOCS=1 cargo test --locked --lib document_is_current

prometheusrule: ## write the alert rules once more, as the operator of Prometheus takes them
	sed -i '/^spec:/q' k8s/overlays/production/prometheusrule.yaml
	sed -n '/^groups:/,$${s/^./  &/;p}' k8s/monitoring/rules.yml >>k8s/overlays/production/prometheusrule.yaml

eval: release ## how well the detectors detect, held against docs/DETECTION.md; DATA is where nab/ and mscloud/ lie
	$(WITH_BINARY) tests/tables.py --data $(DATA)

image: ## build the container image; CONTAINERS=podman or buildah without docker
	$(CONTAINERS) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) -t $(IMAGE) .

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
