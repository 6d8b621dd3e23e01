# `make run` is all it takes on Debian or Ubuntu with Rust; see `make help`.
.DEFAULT_GOAL := help
.PHONY: help run test faults bench build dist fmt lint

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
BINARY = $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/dockerd-rootless

# The suites check, trace, e2e, faults, fetch, install, supervise and systemd make throw-away users and run daemons
# as them, and so does the benchmark: only root can. For anybody else sudo runs these binaries, and
# nothing but these.
ifneq ($(shell id -u),0)
SUDO = sudo -E
RUNNER = --config 'target.$(HOST).runner = ["sh", "-c", "case $$0 in */check-*|*/trace-*|*/e2e-*|*/faults-*|*/fetch-*|*/install-*|*/supervise-*|*/systemd-*|*/launch-*) \
	exec sudo -E -- \"$$0\" \"$$@\";; *) exec \"$$0\" \"$$@\";; esac"]'
SAY_SUDO = @echo 'make: not root, so sudo runs the binaries of check, trace, e2e, faults, fetch, install, supervise, systemd and launch'
endif

# With ROOT=DIR all of them run, and what they need is installed, inside the root directory of another release.
ifdef ROOT
INSIDE = $(SUDO) $(CURDIR)/tests/support/in-root.sh $(ROOT)
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
	$(SAY_SUDO)
	cargo test --locked --no-fail-fast $(RUNNER)

faults:  ## install what is missing, build, play every fault (ours and upstream's), write docs/faults.md
	$(INSIDE) install/packages.sh test
	@$(MAKE) --no-print-directory build
	$(SAY_SUDO)
	FAULTS_TABLE='$(CURDIR)/docs/faults.md' cargo test --locked $(RUNNER) --test faults -- --include-ignored --test-threads=1
	cargo test --locked $(RUNNER) --test supervise -- --ignored

bench:   ## install what is missing, build, measure against upstream's script
	$(INSIDE) install/packages.sh bench
	@$(MAKE) --no-print-directory build
	$(SAY_SUDO)
	cargo bench --locked --bench launch $(RUNNER)

build:   ## the static release binary
	cargo build --release --locked
	@echo 'built: $(BINARY)'

dist:    ## a release in dist/ to put at BASE_URL: the binary, its checksum, the installer
	@$(MAKE) --no-print-directory build
	install/dist.sh '$(BASE_URL)' dist '$(BINARY)'

fmt:     ## is everything formatted? (cargo fmt does it)
	cargo fmt --check

lint:    ## clippy, and shellcheck if it is installed
	cargo clippy --all-targets --locked -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck install/*.sh .ci/run; else echo 'no shellcheck: the scripts are not checked'; fi
