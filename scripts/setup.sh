#!/bin/bash
# Prepares this checkout: Debian packages, .venv, the extension. Does only what is missing; when
# nothing is, it takes a fraction of a second. Prints one line per step; the output of a step goes
# to a log file whose end is shown when the step fails.
#
#   PYTHON=python3.11 scripts/setup.sh     uses that Python to make .venv (3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(g++ pkg-config libpmemobj-dev libasio-dev libisal-dev libxxhash-dev ca-certificates)
LOG=build/setup.log
mkdir -p build

say() { printf '%s\n' "setup: $*"; }

# step TEXT COMMAND...: run quietly, show the end of the log when it fails
step() {
  local text=$1
  shift
  say "$text ..."
  if ! "$@" >"$LOG" 2>&1 </dev/null; then
    say "failed: $text; the end of $LOG:"
    tail -n 40 "$LOG"
    exit 1
  fi
}

# A Python is good when it is new enough, can make an environment and has its headers.
python_is_good() {
  "$1" - <<'PY' >/dev/null 2>&1
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
PY
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 /usr/bin/python3; do
    if python_is_good "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

missing_packages() {
  local package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      printf '%s ' "$package"
  done
}

install_packages() {
  local missing=$1 as_root=()
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      say "Debian packages are missing; run: sudo apt-get install -y ${missing% }"
      exit 1
    fi
  fi
  # shellcheck disable=SC2086 # a list of words
  step "installing Debian packages: ${missing% }" "${as_root[@]}" sh -c \
    "export DEBIAN_FRONTEND=noninteractive
     apt-get install -y --no-install-recommends $missing || {
       apt-get update && apt-get install -y --no-install-recommends $missing; }"
}

if ! command -v dpkg-query >/dev/null; then
  say "this is no Debian; have ready: a C++20 compiler, pkg-config, libpmemobj >= 1.12, asio >= 1.22," \
    "libisal >= 2.30, libxxhash >= 0.8, Python >= 3.11 with headers"
else
  # Debian's own Python comes in pieces; others (pyenv, the python image) are whole.
  find_python >/dev/null || PACKAGES+=(python3 python3-venv python3-dev)
  missing=$(missing_packages)
  [ -z "$missing" ] || install_packages "$missing"
fi
python=$(find_python) || {
  say "no Python >= 3.11 with venv and headers was found; set PYTHON=/path/to/python3.11"
  exit 1
}

# What the environment and the extension depend on, as one digest each. $PWD: an environment does
# not survive being moved.
environment="$python $PWD $(cat pyproject.toml scripts/setup.sh | sha256sum)"
native="$environment $(find native CMakeLists.txt src/mpaxos/{core,net,runtime,storage} \
  -type f -not -name '*.pyc' -print0 | sort -z |
  xargs -0 sha256sum | sha256sum)"

same() { [ -x .venv/bin/python ] && [ "$(cat ".venv/$1" 2>/dev/null)" = "$2" ]; }

build_requirements() {
  .venv/bin/python - <<'PY'
import tomllib
print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))
PY
}

if ! same setup-environment "$environment"; then
  rm -rf .venv
  step "making .venv with $python" "$python" -m venv .venv
  mapfile -t requires < <(build_requirements)
  # Kept in .venv rather than in pip's throw-away environment: so a changed source file is
  # compiled alone. cmake and ninja come from PyPI too, whatever the system has.
  step "installing build requirements from PyPI" .venv/bin/python -m pip install \
    --disable-pip-version-check "${requires[@]}" cmake ninja
  printf '%s' "$environment" >.venv/setup-environment
fi
if ! same setup-native "$native"; then
  PATH="$PWD/.venv/bin:$PATH" step "building the extension, installing mpaxos (editable)" \
    .venv/bin/python -m pip install --disable-pip-version-check --no-build-isolation -e '.[dev]'
  printf '%s' "$native" >.venv/setup-native
fi
# As pip does for what it copies: otherwise, where PYTHONDONTWRITEBYTECODE is set, every process
# compiles what it imports, and a restarted replica is in step after 0.36 s instead of 0.25 s.
.venv/bin/python -m compileall -q src
