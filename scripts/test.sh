#!/bin/bash
# Runs the named stages of the tests, in order, and stops at the first that fails:
#   lint       ruff, mypy --strict
#   unit       tests/unit (the extension's type stub is checked there: test_stub.py)
#   sim        tests/sim: the protocol in the simulated world
#   cluster    tests/cluster: real processes
# Words beginning with - or naming a path are handed to pytest. scripts/setup.sh must have run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

stages=() arguments=()
for word in "$@"; do
  case $word in
    lint | unit | sim | cluster) stages+=("$word") ;;
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
