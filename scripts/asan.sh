#!/bin/bash
# The tests that touch the extension, with the extension under AddressSanitizer and
# UndefinedBehaviorSanitizer; then replicas that are killed and come back. Prepares what it needs.
# scripts/setup.sh must have run.
#
#   scripts/asan.sh [arguments of pytest]     default: what is listed below
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh
sanitized asan address,undefined

# detect_leaks=0: the interpreter frees little of what it allocated when it ends, on purpose.
# handle_segv=0 is not set: a wild pointer is to be reported, not only to kill.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# The program itself is not instrumented, so the run-time library has to come first; libstdc++ with
# it, or exceptions thrown by the extension are not intercepted.
PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/unit tests/fuzz tests/cluster/test_crashes.py
  --deselect tests/unit/test_layout.py)
begin=$SECONDS
LD_PRELOAD=$PRELOAD "$PYTHON" -m pytest -p no:cacheprovider "${tests[@]}" || {
  say "reproduce: scripts/asan.sh ${tests[*]} -x"
  exit 1
}
say "clean under ASan + UBSan, $((SECONDS - begin)) s"
