# Development tasks; `make help` lists them. `make test` runs all checks and tests.

CARGO ?= cargo
MACOS_TARGET := aarch64-apple-darwin
DIST_TARGET := x86_64-unknown-linux-musl
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
DIST := microgpt-$(VERSION)-$(DIST_TARGET)
# Installation prefix of `make install`; DESTDIR is for packagers.
PREFIX ?= /usr/local
DESTDIR ?=
BINARY ?= target/release/microgpt
# Seconds per fuzz target, and the targets.
FUZZ_SECONDS ?= 900
FUZZ_TARGETS ?= weights meta tokenizer train_state conversations text command_line http_body http_requests
# Python environment and browser of the client tests.
CLIENTS := target/clients
# Python environment of the tests of examples/.
EXAMPLES := target/examples
# The Python files of the program and the examples, and their tests.
PYTHON := src/cli/export/huggingface tests/clients/huggingface.py tests/clients/torchrun.py \
	tests/clients/lm_eval_tasks.py \
	examples/torchrun
CHROMIUM ?= /usr/bin/chromium

.PHONY: help build docs install uninstall static dist test-dist test-cpus test fmt-check clippy \
	unit-and-program-tests doc-check metal-check formula-check deny-check advisories python-check asan bench clients \
	test-clients test-web examples test-examples test-mpi soak fuzz

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/microgpt
	$(CARGO) build --release --locked

test: fmt-check clippy metal-check doc-check formula-check deny-check unit-and-program-tests ## Run all checks and tests

fmt-check:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

unit-and-program-tests:
	$(CARGO) test --locked

doc-check:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

# Checks the macOS build on Linux if that target's standard library is installed.
metal-check:
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/$(MACOS_TARGET)/lib" ]; then \
		echo "$(CARGO) check --locked --target $(MACOS_TARGET) --features metal"; \
		$(CARGO) check --locked --target $(MACOS_TARGET) --features metal; \
	elif [ -n "$$MICROGPT_REQUIRE_TOOLS" ]; then \
		echo "the check of the macOS build needs: rustup target add $(MACOS_TARGET)" >&2; exit 1; \
	else \
		echo "skipped: the check of the macOS build needs: rustup target add $(MACOS_TARGET)"; \
	fi

# Checks the syntax of the Homebrew formula if Ruby is installed.
formula-check:
	@if command -v ruby >/dev/null; then ruby -c Formula/microgpt.rb; \
	elif [ -n "$$MICROGPT_REQUIRE_TOOLS" ]; then \
		echo "the check of the formula needs: apt-get install ruby" >&2; exit 1; \
	else echo "skipped: the check of the formula needs ruby"; fi

# Checks licences, sources and bans of the dependencies against deny.toml, for all platforms, so that
# all of them are fetched first.
deny-check:
	@if cargo-deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny --offline --locked check bans licenses sources"; \
		$(CARGO) fetch --quiet --locked && \
		$(CARGO) deny --offline --locked check bans licenses sources; \
	elif [ -n "$$MICROGPT_REQUIRE_TOOLS" ]; then \
		echo "the check of the dependencies needs: cargo install --locked cargo-deny" >&2; exit 1; \
	else echo "skipped: the check of the dependencies needs: cargo install --locked cargo-deny"; fi

advisories: ## Check the dependencies for RustSec advisories (needs the network and cargo-deny)
	$(CARGO) deny check advisories

python-check: ## Check the format and style of the Python files for transformers
	@[ -x $(CLIENTS)/bin/ruff ] || { echo "python-check needs: make clients" >&2; exit 1; }
	$(CLIENTS)/bin/ruff check $(PYTHON)
	$(CLIENTS)/bin/ruff format --check $(PYTHON)

asan: ## Run the unit tests under AddressSanitizer (needs a nightly toolchain)
	@rustup run nightly rustc --version >/dev/null || \
		{ echo "asan needs: rustup toolchain install nightly" >&2; exit 1; }
	RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/asan \
		rustup run nightly cargo test --locked --lib --target "$$(rustc -vV | sed -n 's/^host: //p')"

docs: ## Regenerate the man page and the completions
	MICROGPT_WRITE_DOCS=1 $(CARGO) test --locked --test microgpt up_to_date

install: ## Install the program, its man page and completions under PREFIX (/usr/local)
	@[ -x $(BINARY) ] || { echo "install needs: make build" >&2; exit 1; }
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/share/man/man1" \
		"$(DESTDIR)$(PREFIX)/share/bash-completion/completions" \
		"$(DESTDIR)$(PREFIX)/share/zsh/site-functions" \
		"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d"
	install -m 755 $(BINARY) "$(DESTDIR)$(PREFIX)/bin/microgpt"
	install -m 644 man/microgpt.1 "$(DESTDIR)$(PREFIX)/share/man/man1/microgpt.1"
	$(BINARY) completions bash > "$(DESTDIR)$(PREFIX)/share/bash-completion/completions/microgpt"
	$(BINARY) completions zsh > "$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_microgpt"
	$(BINARY) completions fish > "$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/microgpt.fish"

uninstall: ## Remove the installed files
	rm -f "$(DESTDIR)$(PREFIX)/bin/microgpt" \
		"$(DESTDIR)$(PREFIX)/share/man/man1/microgpt.1" \
		"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/microgpt" \
		"$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_microgpt" \
		"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/microgpt.fish"

static: ## Build the static binary for Linux
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/$(DIST_TARGET)/lib" ] || \
		{ echo "this needs: rustup target add $(DIST_TARGET)" >&2; exit 1; }
	@command -v musl-gcc >/dev/null || { echo "this needs: apt-get install musl-tools" >&2; exit 1; }
	$(CARGO) build --release --locked --target $(DIST_TARGET)

dist: static ## Pack the static binary, man page and completions as target/dist/….tar.gz, with a sha256
	rm -rf target/dist
	$(MAKE) --no-print-directory install BINARY=target/$(DIST_TARGET)/release/microgpt \
		DESTDIR=target/dist/$(DIST) PREFIX=
	cp README.md LICENSE CHANGELOG.md target/dist/$(DIST)
	tar -C target/dist --owner=0 --group=0 --numeric-owner --sort=name -czf target/dist/$(DIST).tar.gz $(DIST)
	cd target/dist && sha256sum $(DIST).tar.gz > $(DIST).tar.gz.sha256 && cat $(DIST).tar.gz.sha256

test-dist: dist ## Test the package: unpack it and run the binary in an empty root
	tests/dist.sh target/dist/$(DIST).tar.gz

test-cpus: build ## Run the program on emulated CPUs without AVX-512, AVX2 and AVX
	@command -v qemu-x86_64 >/dev/null || { echo "test-cpus needs: apt-get install qemu-user" >&2; exit 1; }
	tests/cpus.sh "$(CURDIR)/target/release/microgpt"

bench: ## Measure training and generation, beside PyTorch if installed
	$(CARGO) bench --locked

clients: ## Install the dependencies of test-clients and test-web in target/clients
	python3 -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --requirement tests/clients/requirements.txt

test-clients: ## Test with OpenAI's client, lm-evaluation-harness, schemathesis, nginx, tokenizers and transformers
	@[ -x $(CLIENTS)/bin/python ] || { echo "test-clients needs: make clients" >&2; exit 1; }
	$(CARGO) build --locked
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || \
		{ echo "test-clients needs: apt-get install nginx" >&2; exit 1; }
	for test in openai_api harness schema proxy huggingface torchrun lm_eval_tasks; do \
		$(CLIENTS)/bin/python tests/clients/$$test.py target/debug/microgpt || exit 1; \
	done
	$(CLIENTS)/bin/python tests/clients/tokenizer.py target/debug/microgpt ../shared/data

test-web: ## Test the web pages in a headless Chromium
	@[ -x $(CLIENTS)/bin/python ] || { echo "test-web needs: make clients" >&2; exit 1; }
	@[ -x $(CHROMIUM) ] || { echo "test-web needs: apt-get install chromium" >&2; exit 1; }
	$(CARGO) build --locked
	for test in web html_export; do \
		$(CLIENTS)/bin/python tests/clients/$$test.py target/debug/microgpt target/screenshots || exit 1; \
	done

examples: ## Install the dependencies of test-examples in target/examples
	python3 -m venv $(EXAMPLES)
	$(EXAMPLES)/bin/pip install --quiet --requirement tests/examples/requirements.txt

test-examples: ## Test examples/ with Spark, GNU parallel, ssh, Slurm and the schemas of Kubernetes
	@[ -x $(EXAMPLES)/bin/python ] || { echo "test-examples needs: make examples" >&2; exit 1; }
	@PATH="$$PATH:/usr/sbin"; for tool in java:openjdk-17-jre-headless parallel:parallel sshd:openssh-server slurmctld:slurm-wlm; do \
		command -v $${tool%%:*} >/dev/null || \
			{ echo "test-examples needs: apt-get install $${tool#*:}" >&2; exit 1; }; \
	done
	$(CARGO) build --locked
	$(EXAMPLES)/bin/python tests/examples/manifests.py
	for test in generate_parts spark_score; do \
		PYTHONPATH=tests/clients $(EXAMPLES)/bin/python tests/examples/$$test.py target/debug/microgpt || exit 1; \
	done

# Two hosts are network namespaces, which need root and iproute2.
test-mpi: ## Test data-parallel training with Open MPI, if installed
	@if command -v mpirun >/dev/null; then \
		$(CARGO) clippy --locked --features mpi --all-targets -- -D warnings && \
		$(CARGO) build --locked --features mpi && python3 tests/mpi.py target/debug/microgpt; \
	elif [ -n "$$MICROGPT_REQUIRE_TOOLS" ]; then \
		echo "test-mpi needs: apt-get install openmpi-bin libopenmpi-dev libclang-dev iproute2" >&2; exit 1; \
	else \
		echo "skipped: test-mpi needs: apt-get install openmpi-bin libopenmpi-dev libclang-dev iproute2"; \
	fi

soak: build ## Load the server for ten minutes
	python3 tests/clients/soak.py target/release/microgpt

fuzz: ## Fuzz the parsers, FUZZ_SECONDS (900) each
	@[ -d fuzz ] || { echo "fuzz needs the repository: a package has no fuzz/" >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
		{ echo "fuzz needs: cargo install cargo-fuzz --locked" >&2; exit 1; }
	@$(CARGO) +nightly --version >/dev/null 2>&1 || \
		{ echo "fuzz needs: rustup toolchain install nightly" >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz/$$target && echo "fuzzing $$target" && \
		$(CARGO) +nightly fuzz run $$target target/fuzz/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=10 -max_len=4096 \
			|| exit 1; \
	done
