# `make run` is all it takes on Debian or Ubuntu with Rust; see `make help`.
.DEFAULT_GOAL := help
.PHONY: help run test faults bench build dist checksums fmt lint lines

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
BINARY = $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/dockerd-rootless

# The suites that make users start themselves again through sudo where somebody else than root runs them.
# With ROOT=DIR all suites run, and what they need is installed, inside the root directory of another release.
ifdef ROOT
INSIDE = $(CURDIR)/tests/support/in-root.sh $(ROOT)
RUNNER = --config 'target.$(HOST).runner = "$(INSIDE)"'
endif

help:    ## this list
	@sed -n 's/:  *## /\t/p' Makefile

run:     ## install what is missing, build, run the daemon in the foreground (ARGS='-D' for dockerd)
	install/packages.sh run
	@$(MAKE) --no-print-directory build
	@install/run.sh $(ARGS)

test:    ## install what is missing, build, run every test suite
	$(INSIDE) install/packages.sh test
	@$(MAKE) --no-print-directory build
	cargo test --locked --no-fail-fast $(RUNNER)

faults:  ## install what is missing, build, play every fault (ours and upstream's), write docs/faults.md
	$(INSIDE) install/packages.sh test
	@$(MAKE) --no-print-directory build
	FAULTS_TABLE='$(CURDIR)/docs/faults.md' cargo test --locked $(RUNNER) --test faults -- --include-ignored --test-threads=1
	cargo test --locked $(RUNNER) --test supervise -- --ignored

bench:   ## install what is missing, build, measure against upstream's script
	$(INSIDE) install/packages.sh bench
	@$(MAKE) --no-print-directory build
	cargo bench --locked --bench launch $(RUNNER)

build:   ## the static release binary
	cargo build --release --locked
	@echo 'built: $(BINARY)'

dist:    ## a release in dist/ to put at BASE_URL: the binary, its checksum, the installer
	@$(MAKE) --no-print-directory build
	@test $$(stat --format=%s '$(BINARY)') -le 6000000 || { echo '$(BINARY) is larger than 6,000,000 bytes' >&2; exit 1; }
	install/dist.sh '$(BASE_URL)' dist '$(BINARY)'

checksums: ## add the tarballs in DIR/CHANNEL/ARCH to the sums that are built in, and date them
	@install/checksums.sh '$(DIR)'

fmt:     ## is everything formatted? (cargo fmt does it)
	cargo fmt --check

lint:    ## clippy, and shellcheck if it is installed
	cargo clippy --all-targets --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck install/*.sh .ci/run .ci/lines; else echo 'no shellcheck: the scripts are not checked'; fi

lines:   ## how long the code is, by room
	@.ci/lines
