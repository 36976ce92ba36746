# Every target is enough on its own on a fresh Debian 12 as root: it sets up what it needs first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
WORKERS ?= 2

.PHONY: help setup demo demo-clean check test test-full bench lock

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

setup: ## Debian packages, virtual environment
	@setup/install

demo: setup ## the example system, in the one-host lab
	@setup/demo

demo-clean: setup ## remove all that the demo made
	@setup/demo clean

check: setup ## format, lint, types, layers, unit tests: under a minute
	@setup/tier check 60 setup/check

test: check ## everything, real guests included: under 30 minutes
	@setup/tier simulated 240 $(BIN)/pytest -q -n $(WORKERS) -m "not real and not full" tests/contract tests/simulated tests/unit/api tests/unit/cli
	@setup/tier real 1320 $(BIN)/pytest -v -n $(WORKERS) --dist loadgroup -m "real and not full" tests/real

test-full: check ## the long matrices too
	@setup/tier simulated 2400 $(BIN)/pytest -q -n $(WORKERS) -m "not real" tests/contract tests/simulated tests/unit/api tests/unit/cli
	@setup/tier real 7200 $(BIN)/pytest -v -m real tests/real

bench: setup ## measurements; ONLY=name for one
	@$(BIN)/python -m benchmarks $(ONLY)

lock: ## pin the newest allowed Python packages anew
	@setup/lock
