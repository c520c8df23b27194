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
		/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
py: $(VENV)/.smollm2 $(VENV)/.dev ## the Python environment in .venv: the SDK, the example's model, test tools

##@ Check

.PHONY: test
test: build py ## go vet, every Go test, every Python test
	@scripts/check test

.PHONY: race
race: build $(VENV)/.smollm2 ## the Go tests under the race detector
	@scripts/check race

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME (20s) each
	@FUZZTIME=$(FUZZTIME) scripts/check fuzz

.PHONY: lint
lint: $(VENV)/.dev $(GOLANGCI) ## gofmt, golangci-lint, ruff, mypy, shellcheck
	@GOLANGCI=$(GOLANGCI) scripts/check lint

.PHONY: bench
bench: build ## the Go benchmarks, BENCHTIME (1s) each
	@go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

##@ Tidy

.PHONY: clean
clean: ## remove what make made: bin, .venv, caches
	rm -rf bin $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache
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

$(VENV)/.dev: $(VENV)/.sdk scripts/requirements-dev.txt
	@scripts/venv dev
	@touch $@

# golangci-lint is built once, by this project's own Go, so that the two agree on the language.
$(GOLANGCI):
	@echo "==> golangci-lint $(GOLANGCI_VERSION) (built once, about two minutes)"
	@mkdir -p $(@D)
	@GOFLAGS= GOBIN=$(abspath $(@D)) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) 2> >(grep -v '^go: downloading' >&2)
	@mv $(@D)/golangci-lint $@
