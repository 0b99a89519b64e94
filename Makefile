# What a developer needs, each in one word. `make` alone says what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help packages axe novnc schemathesis build agents release demo test bench fuzz fmt lint deny clean

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
STATIC := target/static/$(HOST)/release
AGENTS := qvd-vma qvd-keeper
# The tests wait more than they compute.
TEST_THREADS ?= 4
# What strangers can send, a fuzzer each, and seconds for each of them, by hand and among the tests.
FUZZERS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
TIME ?= 60
TEST_TIME ?= 5
# Containers, mounts and namespaces are root's business.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
ifneq ($(SUDO),)
export CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_RUNNER = $(SUDO)
endif

# $(call step,name,command): says what is done and how long it took.
step = @printf '\n== %s\n' '$(1)'; start=$$SECONDS; $(2); printf '== %s: %s s\n' '$(1)' $$((SECONDS - start))

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

packages: ## install missing Debian packages
	$(call step,packages,.ci/install-packages)

axe: packages ## install the accessibility checker of the browser tests
	$(call step,axe,.ci/install-axe)

novnc: packages ## install what the browser tests look at desktops with
	$(call step,novnc,.ci/install-novnc)

schemathesis: packages ## install the checker of the REST API
	$(call step,schemathesis,.ci/install-schemathesis)

build: packages ## build for debugging
	$(call step,build,cargo build)

# Built apart because they are static. They are put in place by renaming, so that a running one is not disturbed.
agents: packages ## build the static programs (VM agent, keeper) and put them next to qvd
	$(call step,agents,RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target $(HOST) \
	    --target-dir target/static --no-default-features --features agents $(addprefix --bin ,$(AGENTS)))
	@for dir in target/debug target/release; do \
	    mkdir -p $$dir; \
	    for agent in $(AGENTS); do \
	        cmp --quiet $(STATIC)/$$agent $$dir/$$agent && continue; \
	        install $(STATIC)/$$agent $$dir/$$agent.new; \
	        mv $$dir/$$agent.new $$dir/$$agent; \
	        echo "$$dir/$$agent is new"; \
	    done; \
	done

release: packages agents ## build for use
	$(call step,release,cargo build --release --bin qvd)

demo: release ## a desktop on this machine, until Ctrl-C; ONCE=1 ends after the screenshot
	@printf '\n== demo\n'
	@exec $(SUDO) target/release/qvd demo $(if $(filter-out 0,$(ONCE)),--once)

test: packages axe novnc schemathesis agents ## all that continuous integration does
	$(call step,format,cargo fmt --check)
	$(call step,lints,cargo clippy --all-targets --all-features -- --deny warnings)
	$(call step,dependencies,$(MAKE) --no-print-directory deny)
	$(call step,compile,cargo test --no-run)
	$(call step,fuzz,fuzz/run $(TEST_TIME) $(FUZZERS))
	@printf '\n== tests\n'
	@cargo test --no-fail-fast -- --test-threads=$(TEST_THREADS)

bench: packages agents ## one benchmark: SCENARIO=notify ARGS=--json
	$(call step,release,cargo build --release --bin qvd --bin qvd-bench)
	@exec $(SUDO) target/release/qvd-bench $(SCENARIO) $(ARGS)

fuzz: packages ## every fuzzer for a minute each: TIME=seconds, FUZZERS=names
	$(call step,fuzz,fuzz/run $(TIME) $(FUZZERS))

fmt: ## format the code
	cargo fmt

lint: ## lints for developers
	cargo clippy --all-targets --all-features

deny: ## check licences and dependencies, if cargo-deny is installed
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level error check licenses bans sources; \
	else echo 'cargo-deny is not installed; skipped'; fi

clean: ## forget everything that was built
	cargo clean
