# What scripts/{fuzz,asan,tsan}.sh share; sourced by them, in the root of the checkout.

mkdir -p build
NAME=$(basename "$0" .sh)
LOG=build/$NAME-step.log

say() { printf '%s\n' "$NAME: $*"; }

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

# need_packages PACKAGE...: install what is missing of these Debian packages, or say how to
need_packages() {
  local package missing=() as_root=()
  command -v dpkg-query >/dev/null || {
    say "this is no Debian; have ready what these packages hold: $*"
    return
  }
  for package in "$@"; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || {
      say "Debian packages are missing; run: sudo apt-get install -y ${missing[*]}"
      exit 1
    }
    as_root=(sudo -n)
  fi
  step "installing Debian packages: ${missing[*]}" "${as_root[@]}" sh -c \
    "export DEBIAN_FRONTEND=noninteractive
     apt-get install -y --no-install-recommends ${missing[*]} || {
       apt-get update && apt-get install -y --no-install-recommends ${missing[*]}; }"
}

# sanitized NAME SANITIZERS: build/NAME/site has mpaxos with the extension built with these
sanitized() {
  local build=build/$1
  step "configuring the extension with -fsanitize=$2" .venv/bin/cmake -S . -B "$build" -G Ninja \
    -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" -DPython_EXECUTABLE="$PWD/.venv/bin/python" \
    -Dnanobind_DIR="$(.venv/bin/python -m nanobind --cmake_dir)" -DMPAXOS_SANITIZE="$2"
  step "compiling it" .venv/bin/cmake --build "$build" -j2
  rm -rf "$build/site"
  mkdir -p "$build/site/mpaxos"
  cp -as "$PWD"/src/mpaxos/. "$build/site/mpaxos/"
  rm -f "$build"/site/mpaxos/{_native,_compiled}*.so
  cp "$build"/{_native,_compiled}*.so "$build/mpaxos-load" "$build/site/mpaxos/"
  # The interpreter .venv was made of: that of .venv would import the editable installation.
  PYTHON=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
  PYTHONPATH="$PWD/$build/site:$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  export PYTHONPATH
}
