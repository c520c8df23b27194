# Ringmaster's front door: `make` lists what there is. Every target does its own set-up.
#
# Needed: Go 1.26 (or any Go ≥ 1.21, which fetches it), Python ≥ 3.11 with venv, a C compiler, make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV ?= .venv
export VENV
VENV_PEERS ?= .venv-peers

VERSION := $(shell git describe --tags --match 'v*' --dirty 2>/dev/null | sed 's/^v//' | grep . \
	|| echo "0.1.0-dev+$$(git describe --always --dirty 2>/dev/null || echo unknown)")
GOLANGCI_VERSION := v2.15.0
GOLANGCI := bin/tools/golangci-lint-$(GOLANGCI_VERSION)

FUZZTIME ?= 20s
BENCHTIME ?= 1s

# What the Go tests need beside Go: the binary, and a Python that has the SDK.
export RINGMASTER_TEST_PYTHON := $(abspath $(VENV)/bin/python)

PY_SOURCES := $(shell find python -type f \
	\( -name '*.py' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.toml' -o -name 'py.typed' -o -name 'MANIFEST.in' \) \
	-not -path '*/build/*' -not -path '*/tests/*' 2>/dev/null)

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "; print "usage: make TARGET"} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build $(VENV)/.smollm2 ## serve a real model (SmolLM2), ask it one question, go on serving until Ctrl-C
	@scripts/run

.PHONY: demo
demo: build $(VENV)/.smollm2 ## the same, and stop after the answer
	@scripts/run --once

.PHONY: build
build: ## bin/ringmaster
	@echo "==> bin/ringmaster $(VERSION)"
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X github.com/ringmasterd/ringmaster/internal/version.Version=$(VERSION)' -o bin/ringmaster ./cmd/ringmaster

.PHONY: py
py: $(VENV)/.smollm2 $(VENV)/.ocr $(VENV)/.wordllama $(VENV)/.dev ## the Python environment in .venv: the SDK, the examples' models, test tools

##@ Install

# As every packager expects: DESTDIR is put before each path and appears in no file. BIN is what is installed; one that is there is not built again, so that root needs no Go.
DESTDIR ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
BIN ?= bin/ringmaster
bindir := $(PREFIX)/bin
unitdir := $(PREFIX)/lib/systemd/system
sysusersdir := $(PREFIX)/lib/sysusers.d
tmpfilesdir := $(PREFIX)/lib/tmpfiles.d
confdir := $(SYSCONFDIR)/ringmaster
bashdir := $(PREFIX)/share/bash-completion/completions
zshdir := $(PREFIX)/share/zsh/site-functions
fishdir := $(PREFIX)/share/fish/vendor_completions.d

INSTALLED := $(bindir)/ringmaster $(unitdir)/ringmaster.service $(unitdir)/ringmaster.socket $(sysusersdir)/ringmaster.conf $(tmpfilesdir)/ringmaster.conf \
	$(confdir)/ringmaster.yaml.example $(bashdir)/ringmaster $(zshdir)/_ringmaster $(fishdir)/ringmaster.fish

bin/ringmaster:
	@$(MAKE) --no-print-directory build

.PHONY: install
install: $(BIN) ## the program, units for systemd, shell completions, under PREFIX (/usr/local); enables nothing
	@install -d $(addprefix $(DESTDIR),$(sort $(dir $(INSTALLED))))
	@install -m 0755 $(BIN) $(DESTDIR)$(bindir)/ringmaster
	@sed -e 's|@bindir@|$(bindir)|g' -e 's|@sysconfdir@|$(SYSCONFDIR)|g' deploy/systemd/ringmaster.service.in > $(DESTDIR)$(unitdir)/ringmaster.service
	@chmod 0644 $(DESTDIR)$(unitdir)/ringmaster.service
	@install -m 0644 deploy/systemd/ringmaster.socket $(DESTDIR)$(unitdir)/ringmaster.socket
	@install -m 0644 deploy/systemd/ringmaster.sysusers $(DESTDIR)$(sysusersdir)/ringmaster.conf
	@install -m 0644 deploy/systemd/ringmaster.tmpfiles $(DESTDIR)$(tmpfilesdir)/ringmaster.conf
	@install -m 0644 deploy/systemd/ringmaster.yaml.example $(DESTDIR)$(confdir)/ringmaster.yaml.example
	@$(BIN) completion bash > $(DESTDIR)$(bashdir)/ringmaster
	@$(BIN) completion zsh > $(DESTDIR)$(zshdir)/_ringmaster
	@$(BIN) completion fish > $(DESTDIR)$(fishdir)/ringmaster.fish
	@chmod 0644 $(DESTDIR)$(bashdir)/ringmaster $(DESTDIR)$(zshdir)/_ringmaster $(DESTDIR)$(fishdir)/ringmaster.fish
	@echo "==> installed under $(DESTDIR)$(PREFIX); docs/operations.md says how to go on"

.PHONY: uninstall
uninstall: ## remove what install installed; ringmaster.yaml and /var/lib/ringmaster stay
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))

##@ Check

.PHONY: test
test: build py ## go vet, every Go test, every Python test
	@scripts/check test

.PHONY: race
race: build py ## the Go tests under the race detector
	@scripts/check race

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME (20s) each
	@FUZZTIME=$(FUZZTIME) scripts/check fuzz

.PHONY: lint
lint: $(VENV)/.dev $(GOLANGCI) ## gofmt, golangci-lint, ruff, mypy, shellcheck
	@GOLANGCI=$(GOLANGCI) scripts/check lint

.PHONY: pictures
pictures: build $(VENV)/.dev ## docs/img/top.svg and status-page.png, from a real server; needs a Chromium
	@scripts/pictures

.PHONY: bench
bench: $(VENV_PEERS)/.peers ## every scenario beside the peers, into docs/performance.md; BENCH_REPEATS (5), BENCH_SECONDS (0.25)
	@mkdir -p bench/results
	@cd bench/peers && BENCH_COMMAND='make bench' go run . -python ../../$(VENV_PEERS)/bin/python -json ../results/latest.json -page ../../docs/performance.md -images ../../docs/img

.PHONY: bench-go
bench-go: ## the Go benchmarks, BENCHTIME (1s) each
	@go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

.PHONY: proto
proto: ## the Go code of proto/, after a change of a .proto; it is committed
	@scripts/proto

##@ Tidy

.PHONY: clean
clean: ## remove what make made: bin, .venv, caches
	rm -rf bin $(VENV) $(VENV_PEERS) .cache .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The Python environment, in steps; each stamp is newer than what it was made from, so a second start does nothing.

$(VENV)/.made:
	@scripts/venv make
	@touch $@

$(VENV)/.sdk: $(VENV)/.made scripts/requirements-build.txt $(PY_SOURCES)
	@scripts/venv sdk
	@touch $@

$(VENV)/.smollm2: $(VENV)/.sdk $(wildcard examples/smollm2/requirements.txt)
	@scripts/venv smollm2
	@touch $@

$(VENV)/.ocr $(VENV)/.wordllama: $(VENV)/.%: $(VENV)/.sdk examples/%/requirements.txt
	@scripts/venv $*
	@touch $@

$(VENV)/.dev: $(VENV)/.sdk scripts/requirements-dev.txt
	@scripts/venv dev
	@touch $@

# What the benchmarks compare with, in an environment of its own: it is large, and nothing else needs it.
$(VENV_PEERS)/.peers: export VENV := $(VENV_PEERS)
$(VENV_PEERS)/.peers: scripts/requirements-build.txt bench/peers/python/requirements.txt bench/peers/python/install $(PY_SOURCES)
	@[[ -x $(VENV_PEERS)/bin/python ]] || scripts/venv make
	@scripts/venv sdk
	@bench/peers/python/install
	@touch $@

# golangci-lint is built once, by this project's own Go, so that the two agree on the language.
$(GOLANGCI):
	@echo "==> golangci-lint $(GOLANGCI_VERSION) (built once, about two minutes)"
	@mkdir -p $(@D)
	@GOFLAGS= GOBIN=$(abspath $(@D)) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) 2> >(grep -v '^go: downloading' >&2)
	@mv $(@D)/golangci-lint $@
