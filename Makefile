# `make run` starts the server, `make test` checks everything, `make help` lists the rest.

# Not sh: with a shell of our own every recipe sees the PATH below.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(PATH):/usr/sbin:/sbin

# In the order in which they run: what fails soonest comes first.
SUITES := fmt scripts dockerfile deny clippy doc unit fuzz

VERSION = $(shell sed -n '/^version = /{s/[^"]*"\(.*\)"/\1/p;q}' Cargo.toml)
REVISION = $(shell git rev-parse HEAD)
# podman and buildah understand the same arguments.
CONTAINERS ?= docker
IMAGE ?= sigmad:$(VERSION)

.PHONY: run test setup bench image help $(SUITES)

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

scripts: ## suite: shell scripts
	shellcheck scripts/*.sh .ci/run

dockerfile: ## suite: Dockerfile
	hadolint Dockerfile

deny: ## suite: licences, sources and advisories of the dependencies
	scripts/deny.sh

clippy: ## suite: lints
	cargo clippy --locked --all-targets -- -D warnings

doc: ## suite: the documentation builds, and its links lead somewhere
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

unit: ## suite: unit and integration tests
	cargo test --locked

fuzz: ## suite: every fuzz target for 15 seconds
	scripts/fuzz.sh

bench: ## criterion benches; see benches/README.md
	cargo bench --locked --benches

image: ## build the container image; CONTAINERS=podman or buildah without docker
	$(CONTAINERS) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) -t $(IMAGE) .

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
