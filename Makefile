# The two commands of the README, `make demo` and `make test`, and the steps they are made of.
# All of them prepare what they need first (scripts/setup.sh); when nothing changed that takes
# well under a second.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint unit sim exhaustive linearizable crash fuzz asan tsan cluster bench bench-recovery soak clean

PY := .venv/bin/python
ARGS ?=

help:  ## this text
	@echo "usage: make TARGET    (start with: make demo)"
	@echo
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  Variables: POOL_DIR=/mnt/pmem (where the demo puts its pools; default /dev/shm),"
	@echo "  ARGS='...' (handed on: to the demo, or to pytest), PYTHON=python3.11 (which one to use)"

setup:  ## Debian packages, .venv, the extension (every other target does this first)
	@scripts/setup.sh

demo: setup  ## three replicas, real input, kill -9 of each and of all, comparison of every record
	@$(PY) -m mpaxos.demo $(ARGS)

test: setup  ## everything: lint, types, unit tests, simulation, real clusters
	@scripts/test.sh lint unit threads exhaustive sim crash fuzz linearizable cluster

lint: setup  ## ruff, mypy --strict
	@scripts/test.sh lint

unit: setup  ## unit tests
	@scripts/test.sh unit $(ARGS)

sim: setup  ## 20,000 schedules of the protocol in the simulated world (ARGS='--count N --seed S')
	@$(PY) -m mpaxos.cli.main sim $(or $(ARGS),--count 20000)

exhaustive: setup  ## every run of small worlds, over five million states
	@$(PY) -m mpaxos.cli.main exhaustive $(ARGS)

linearizable: setup  ## real clusters behind a fault proxy, their histories judged
	@$(PY) -m tests.linearizable $(ARGS)

crash: setup  ## crash points of persistent memory: every image a power failure leaves; mutants
	@$(PY) -m tests.crash run $(ARGS)
	@$(PY) -m tests.crash mutants

fuzz: setup  ## every parser, and the opening of a pool, on mutated bytes (FUZZ_SECONDS=60)
	@scripts/fuzz.sh $(ARGS)

asan: setup  ## the extension's tests under AddressSanitizer and UBSan
	@scripts/asan.sh $(ARGS)

tsan: setup  ## the threaded parts under ThreadSanitizer
	@scripts/tsan.sh $(ARGS)

bench-recovery: setup  ## how long clients wait when replicas die, freeze and return (ARGS=--quick: two minutes)
	@$(PY) -m bench.recovery $(ARGS)

soak: setup  ## 10 million commands through pools of 512 MiB, replicas away in turn (3 minutes)
	@$(PY) -m tests.soak $(ARGS)

bench: setup  ## how fast: limits of the sockets, mpaxos, installed peers; BENCH=full: longer, and growth
	@$(PY) -m bench $(if $(filter full,$(BENCH)),--full) $(ARGS)

cluster: setup  ## real processes, sockets, kill -9
	@scripts/test.sh cluster $(ARGS)

clean:  ## remove what was built, .venv included
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f src/mpaxos/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
