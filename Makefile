# `make run` starts the server, `make test` checks everything, `make help` lists the rest.

# Not sh: with a shell of our own every recipe sees the PATH below.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(PATH):/usr/sbin:/sbin

# What fails soonest comes first, as far as the builds allow: debug, release, the small ones.
SUITES := fmt scripts dockerfile deny clippy doc unit release formats syscalls clients nginx loom fuzz

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

.PHONY: run test setup bench eval image help $(SUITES)

run: ## build and start the server on port 8080; FLAGS="--window 100" turns settings
	cargo run --release --locked -- $(FLAGS)

test: setup ## check everything: every suite below
	@for suite in $(SUITES); do \
	  echo "== $$suite"; start=$$SECONDS; \
	  $(MAKE) $$suite || { echo "== $$suite: FAILED after $$((SECONDS - start)) s"; exit 1; }; \
	  echo "== $$suite: passed in $$((SECONDS - start)) s"; \
	done; \
	echo "== all suites passed: $(SUITES)"

setup: ## install what the suites need and this machine lacks
	@scripts/setup.sh

fmt: ## suite: formatting
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo fmt --check --manifest-path loom/Cargo.toml
	ruff format --check benches tests

scripts: ## suite: shell and Python
	shellcheck scripts/*.sh .ci/run
	ruff check benches tests

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

syscalls: release ## suite: system calls per request
	$(WITH_BINARY) scripts/syscalls.sh

clients: release ## suite: curl, requests, ab, wrk, hey, Locust
	$(WITH_BINARY) tests/clients.py

nginx: release ## suite: behind nginx; NGINX_SECONDS=60 for longer than 10 s
	$(WITH_BINARY) tests/nginx.py

loom: ## suite: every order in which the analytics thread can fall asleep and be woken
	RUSTFLAGS="--cfg loom" cargo test --release --locked --manifest-path loom/Cargo.toml --target-dir $(TARGET)/loom

fuzz: ## suite: every fuzz target for 15 seconds
	scripts/fuzz.sh

bench: setup release ## criterion benches, then the whole server; see benches/README.md
	cargo bench --locked --bench '*'
	@for bench in server openloop idle; do echo "== $$bench"; $(WITH_BINARY) benches/$$bench.py; done

eval: release ## how well the detectors detect; DATA is where nab/ and mscloud/ lie
	$(TARGET)/release/sigmad eval --data $(DATA)/nab --data $(DATA)/mscloud/data --synthetic
	@for half in a b; do echo; echo "# half $$half"; \
	  $(TARGET)/release/sigmad eval --half $$half --data $(DATA)/nab --data $(DATA)/mscloud/data; done

image: ## build the container image; CONTAINERS=podman or buildah without docker
	$(CONTAINERS) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) -t $(IMAGE) .

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
