#!/bin/bash
# Everything of the extension that several threads touch, under ThreadSanitizer: a plane woken from
# another thread, a log written while another thread applies, calls that release the interpreter's
# lock. Prepares what it needs. scripts/setup.sh must have run.
#
#   scripts/tsan.sh [arguments of pytest]     default: tests/threads
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/tools.sh
sanitized tsan thread

export TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/scripts/tsan.suppressions"
PRELOAD="$(gcc -print-file-name=libtsan.so) $(gcc -print-file-name=libstdc++.so)"
# ThreadSanitizer of gcc 12 cannot place its shadow memory when addresses are fully random.
unrandom=()
command -v setarch >/dev/null && setarch -R true 2>/dev/null && unrandom=(setarch -R)

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(tests/threads)
begin=$SECONDS
LD_PRELOAD=$PRELOAD "${unrandom[@]}" "$PYTHON" -m pytest -p no:cacheprovider "${tests[@]}" || {
  say "reproduce: scripts/tsan.sh ${tests[*]} -x"
  exit 1
}
say "clean under TSan, $((SECONDS - begin)) s"
