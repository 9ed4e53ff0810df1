#!/bin/bash
# Fuzzing: libFuzzer over the native targets (native/fuzz, clang, ASan + UBSan), atheris over those
# in Python (tests/fuzz/targets.py). Prepares what it needs. scripts/setup.sh must have run.
#
#   scripts/fuzz.sh [TARGET...]        all targets, or those named
#   scripts/fuzz.sh --list             their names
#   FUZZ_SECONDS=600                   for all of them together (default 60)
#   FUZZ_CORPUS=DIRECTORY              where what was found interesting is kept (build/corpus)
#
# Exit status 1 when a target failed: the line "reproduce:" is the command that shows it again.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh

NATIVE=(batch client jpaxos peer pool requests)
PYTHON=(admin arguments config control marker sealed snapshot values wire)
ATHERIS=atheris==3.0.0
SECONDS_ALL=${FUZZ_SECONDS:-60}
CORPUS=${FUZZ_CORPUS:-build/corpus}

case ${1:-} in
  --list)
    printf '%s\n' "${NATIVE[@]}" "${PYTHON[@]}"
    exit
    ;;
  -*)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=("${NATIVE[@]}" "${PYTHON[@]}")
is_native() { [[ " ${NATIVE[*]} " == *" $1 "* ]]; }
for target in "${targets[@]}"; do
  [[ " ${NATIVE[*]} ${PYTHON[*]} " == *" $target "* ]] || {
    say "there is no target $target; there are: ${NATIVE[*]} ${PYTHON[*]}"
    exit 2
  }
done

prepare() {
  need_packages clang-14 libclang-rt-14-dev
  step "configuring the native targets" .venv/bin/cmake -S native/fuzz -B build/fuzz -G Ninja \
    -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" -DCMAKE_CXX_COMPILER=clang++-14
  step "compiling the native targets" .venv/bin/cmake --build build/fuzz -j2
  if ! .venv/bin/python -c "import atheris" 2>/dev/null; then
    step "installing $ATHERIS from PyPI" .venv/bin/python -m pip install \
      --disable-pip-version-check "$ATHERIS"
  fi
  rm -rf build/seeds
  step "making the seeds" .venv/bin/python -m tests.fuzz.seeds build/seeds
}

# The settings under which a target runs; also what is printed to reproduce a failure.
command_of() {
  if is_native "$1"; then
    printf 'env PMEM_IS_PMEM_FORCE=1 PMEMOBJ_NLANES=2 build/fuzz/fuzz_%s' "$1"
  else
    printf 'env PMEM_IS_PMEM_FORCE=1 .venv/bin/python -m tests.fuzz.coverage %s' "$1"
  fi
}

number() { sed -n "s/.*$1 *\([0-9]*\).*/\1/p" "$2" | tail -n 1; }

failed=()
run_target() {
  local target=$1 seconds=$2 log=build/fuzz-logs/$1.log options=() input
  mkdir -p "$CORPUS/$target" build/fuzz-logs build/fuzz-failures
  options=(-max_total_time="$seconds" -timeout=20 -artifact_prefix="build/fuzz-failures/$target-")
  case $target in
    # libpmemobj keeps memory on purpose; edits of 8 bytes each, see native/fuzz/pool.cpp.
    pool) options+=(-max_len=65 -detect_leaks=0) ;;
    requests) options+=(-max_len=4096 -detect_leaks=0) ;;
    *) options+=(-max_len=4096) ;;
  esac
  local begin=$SECONDS state=ok
  # shellcheck disable=SC2046 # words of a command
  timeout $((seconds + 120)) $(command_of "$target") "${options[@]}" \
    "$CORPUS/$target" "build/seeds/$target" >"$log" 2>&1 || state=FAILED
  printf '%-10s %-6s %9s executions %6s coverage %5s inputs %4s s\n' "$target" "$state" \
    "$(number 'Done' "$log")" "$(number 'cov:' "$log")" \
    "$(find "$CORPUS/$target" -type f | wc -l)" $((SECONDS - begin))
  if [ "$state" = FAILED ]; then
    failed+=("$target")
    input=$(sed -n 's/.*Test unit written to \(.*\)$/\1/p' "$log" | tail -n 1)
    tail -n 30 "$log"
    say "the output of $target is in $log"
    say "reproduce: $(command_of "$target") ${input:-(no input was written)}"
  fi
}

prepare
# Images go where a crash cannot leave them behind.
MPAXOS_FUZZ_DIR=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)/mpaxos-fuzz.XXXXXX")
export MPAXOS_FUZZ_DIR TMPDIR=$MPAXOS_FUZZ_DIR
trap 'rm -rf "$MPAXOS_FUZZ_DIR"' EXIT
each=$((SECONDS_ALL / ${#targets[@]}))
[ "$each" -gt 0 ] || each=1
say "${#targets[@]} targets, $each s each (FUZZ_SECONDS=$SECONDS_ALL)"
begin=$SECONDS
for target in "${targets[@]}"; do run_target "$target" "$each"; done
if [ ${#failed[@]} -gt 0 ]; then
  say "failed: ${failed[*]}"
  exit 1
fi
say "all ${#targets[@]} targets: nothing found in $((SECONDS - begin)) s"
