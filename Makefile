# What there is to do with the project. `make test` is the one command that passes the tests.

CARGO ?= cargo
MACOS_TARGET := aarch64-apple-darwin
# What the tests of the server's clients need beside the Rust toolchain.
CLIENTS := target/clients
CHROMIUM ?= /usr/bin/chromium

.PHONY: help build docs test fmt-check clippy unit-and-program-tests doc-check metal-check bench \
	clients test-clients test-web soak

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/microgpt
	$(CARGO) build --release --locked

test: fmt-check clippy metal-check doc-check unit-and-program-tests ## Pass all checks and tests

fmt-check:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

unit-and-program-tests:
	$(CARGO) test --locked

doc-check:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

# The macOS build can be checked on Linux too, given that target's standard library.
metal-check:
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/$(MACOS_TARGET)/lib" ]; then \
		echo "$(CARGO) check --locked --target $(MACOS_TARGET) --features metal"; \
		$(CARGO) check --locked --target $(MACOS_TARGET) --features metal; \
	elif [ -n "$$MICROGPT_REQUIRE_METAL_CHECK" ]; then \
		echo "the check of the macOS build needs: rustup target add $(MACOS_TARGET)" >&2; exit 1; \
	else \
		echo "skipped: the check of the macOS build needs: rustup target add $(MACOS_TARGET)"; \
	fi

docs: ## Write the man page and the README's tables of options anew
	MICROGPT_WRITE_DOCS=1 $(CARGO) test --locked --test microgpt docs::the_

bench: ## Measure a training step and generation
	$(CARGO) bench --locked

clients: ## Install what test-clients and test-web need, in target/clients
	python3 -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --requirement tests/clients/requirements.txt

test-clients: ## Test the server with OpenAI's Python client and a Prometheus parser
	@[ -x $(CLIENTS)/bin/python ] || { echo "test-clients needs: make clients" >&2; exit 1; }
	$(CARGO) build --locked
	$(CLIENTS)/bin/python tests/clients/openai_api.py target/debug/microgpt

test-web: ## Test the web page in a headless Chromium
	@[ -x $(CLIENTS)/bin/python ] || { echo "test-web needs: make clients" >&2; exit 1; }
	@[ -x $(CHROMIUM) ] || { echo "test-web needs: apt-get install chromium" >&2; exit 1; }
	$(CARGO) build --locked
	$(CLIENTS)/bin/python tests/clients/web.py target/debug/microgpt target/screenshots

soak: build ## Load the server for ten minutes
	python3 tests/clients/soak.py target/release/microgpt
