#!/bin/bash
# Runs the named stages of the tests, in order, and stops at the first that fails:
#   lint       ruff, mypy --strict
#   unit       tests/unit (the extension's type stub is checked there: test_stub.py)
#   threads    tests/threads: what happens on two threads at once
#   exhaustive tests/exhaustive: every run of small worlds over the real protocol
#   sim        tests/sim: the protocol in the simulated world
#   crash      tests/crash: crash points of persistent memory, mutants of the storage code
#   fuzz       tests/fuzz: every parser on bytes that were not meant for it
#   linearizable  tests/linearizable: histories of real clusters behind a fault proxy
#   cluster    tests/cluster: real processes
# Tests of a stage run side by side, one process per processor and at most four (JOBS=1: one after
# the other). Words beginning with - or naming a path are handed to pytest, and then tests run one
# after the other, too, so that -s and --pdb work. scripts/setup.sh must have run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

stages=() arguments=()
for word in "$@"; do
  case $word in
    lint | unit | threads | exhaustive | sim | crash | fuzz | linearizable | cluster) stages+=("$word") ;;
    *) arguments+=("$word") ;;
  esac
done

say() { printf '\n== %s\n' "$*"; }

lint() {
  say "ruff"
  ruff check .
  ruff format --check .
  say "mypy --strict"
  mypy
}

processors=$(nproc)
jobs=${JOBS:-$((processors < 4 ? processors : 4))}
if [ "$jobs" -gt 1 ] && [ ${#arguments[@]} = 0 ]; then
  arguments=(-n "$jobs" --dist worksteal)
fi

# pytest DIRECTORY: its closing line says what ran
run_pytest() {
  say "pytest tests/$1"
  python -m pytest "tests/$1" ${arguments[@]+"${arguments[@]}"}
}

started=$SECONDS
for stage in "${stages[@]}"; do
  case $stage in
    lint) lint ;;
    *) run_pytest "$stage" ;;
  esac
done
say "${stages[*]}: passed in $((SECONDS - started)) s"
